"""The plain PyTorch pipeline, the baseline of the CPU benchmarks, makes the runtime's frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.cpu.models import MODELS
from benchmarks.cpu.pipeline import UpstreamEngines, UpstreamVideo, torch_median
from benchmarks.cpu.sides import Sides
from benchmarks.gpu.compare import psnr
from benchmarks.gpu.scene import Scene, draw_frames
from tests.conftest import GoldenSet
from vexpress_rt.native import median_filter
from vexpress_rt.types import Video

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def tiny(tiny_square: GoldenSet) -> Iterator[Sides]:
    with Sides(tiny_square.checkpoint, tiny_square.bundle, threads=1) as sides:
        yield sides


@pytest.fixture(scope="module")
def micro(micro_checkpoint: Path, micro_bundle: Path) -> Iterator[Sides]:
    with Sides(micro_checkpoint, micro_bundle, threads=1) as sides:
        yield sides


def scene(sides: Sides, frames: int) -> Scene:
    shape = sides.shape
    return draw_frames(shape.height, shape.width, shape.frames, frames, fps=25)


def bytes_of(video: Video) -> np.ndarray:
    assert video.frames is not None
    return video.frames


def test_its_frames_are_the_runtimes_up_to_the_rounding_of_a_byte(tiny: Sides) -> None:
    settings, inputs = tiny.settings(steps=2, fps=25, overlap=4), scene(tiny, 11)
    ours, theirs = bytes_of(tiny.make(inputs, settings)), bytes_of(tiny.make_in_torch(inputs, settings))
    assert ours.shape == theirs.shape == (11, 64, 64, 3)
    apart = np.abs(ours.astype(int) - theirs)
    assert (apart == 0).mean() >= 0.999
    assert apart.max() <= 1
    assert len(np.unique(ours)) > 100


@pytest.mark.parametrize(
    "options", [{"guidance_scale": 1.0}, {"median_filter": False}, {"audio_attention_weight": 1.0, "overlap": 2}]
)
def test_it_has_the_runtimes_options(micro: Sides, options: dict[str, float]) -> None:
    plain, inputs = micro.settings(steps=3, fps=25, overlap=1), scene(micro, 5)
    settings = micro.settings(**({"steps": 3, "fps": 25, "overlap": 1} | options))
    theirs = bytes_of(micro.make_in_torch(inputs, settings))
    assert psnr(theirs, bytes_of(micro.make(inputs, settings))) > 60
    assert psnr(theirs, bytes_of(micro.make_in_torch(inputs, plain))) < 50


def test_a_video_shorter_than_a_window_has_its_own_frames_alone(micro: Sides) -> None:
    settings, inputs = micro.settings(steps=2, fps=25), scene(micro, 2)
    theirs = bytes_of(micro.make_in_torch(inputs, settings))
    assert len(theirs) == 2
    assert psnr(theirs, bytes_of(micro.make(inputs, settings))) > 60


def test_both_tell_the_seconds_of_each_stage(micro: Sides) -> None:
    settings, inputs = micro.settings(steps=2, fps=25), scene(micro, 3)
    for video in (micro.make(inputs, settings), micro.make_in_torch(inputs, settings)):
        stages = {"portrait", "audio", "denoise", "decode", "median"}
        assert all(video.timings[stage] > 0 for stage in stages)
        assert sum(video.timings[stage] for stage in stages) <= video.timings["total"]


def test_the_median_in_torch_is_the_native_one() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    found = (torch_median(pictures) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found, median_filter(frames))


def test_calls_by_turns_are_given_what_each_side_takes(micro: Sides) -> None:
    for name in ("reference_net", "denoiser", "denoiser_cond", "vae_decoder", "audio_encoder"):
        ours, theirs = micro.engine_calls(name)
        assert ours()
        assert theirs()
    ours, theirs = micro.window_step_calls()
    assert [frame for frame, _ in ours()] == [0, 1, 2]
    assert theirs().shape == (3, 3, 4, 6)


def test_all_pictures_of_a_photo_are_projected_in_each_call_and_by_one_network(micro: Sides) -> None:
    engines = micro.torch
    assert isinstance(engines, UpstreamEngines)
    assert isinstance(micro.video, UpstreamVideo)
    features = engines.get("reference_net").run({"latent": np.zeros((1, 3, 4, 6), np.float32)})
    sites = [site.name for site in engines.model.attention_sites()]
    assert list(features) == [f"feature/{name}" for name in sites]
    assert engines.get("denoiser") is engines.get("denoiser")
    assert engines.network("denoising_unet") is engines.network("denoising_unet")


def test_a_models_folders_change_with_its_architecture(tmp_path: Path) -> None:
    folders = {folder for model in MODELS.values() for folder in (model.weights(tmp_path), model.bundle(tmp_path))}
    assert len(folders) == 2 * len(MODELS)
    assert MODELS["half"].architecture.unet.block_out_channels == (160, 320, 640, 640)
    assert MODELS["full"].architecture.unet.block_out_channels == (320, 640, 1280, 1280)
