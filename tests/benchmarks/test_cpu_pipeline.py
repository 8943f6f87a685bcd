"""The plain PyTorch pipeline, the baseline of the CPU benchmarks, makes the runtime's frames."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.cpu import sides as sides_module
from benchmarks.cpu.models import MODELS
from benchmarks.cpu.pipeline import UpstreamEngines, UpstreamVideo, torch_median
from benchmarks.cpu.runtimes import AUTOCAST, CPU, OPENVINO, PYTORCH, RUNTIMES, Runtime
from benchmarks.cpu.sides import Sides, signal_to_noise
from benchmarks.cpu.upstream import UpstreamDenoiser
from benchmarks.gpu.compare import psnr
from benchmarks.gpu.scene import Scene, draw_frames
from export.build.parity import random_inputs
from export.networks.denoising_unet import reference_keys_values
from export.networks.registry import NETWORKS
from export.onnx.engine_modules import make_engine
from tests.conftest import GoldenSet
from tests.support.micro import MICRO, MICRO_SHAPE
from vexpress_rt.bundle.engine_spec import engine_specs
from vexpress_rt.native import median_filter
from vexpress_rt.types import Video
from vexpress_rt.utils.cpu_model import CpuModel

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def tiny(tiny_square: GoldenSet) -> Iterator[Sides]:
    with Sides(tiny_square.checkpoint, tiny_square.bundle, threads=1, runtimes=[CPU]) as sides:
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
    ours, theirs = bytes_of(tiny.make(CPU, inputs, settings)), bytes_of(tiny.make(PYTORCH, inputs, settings))
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
    theirs = bytes_of(micro.make(PYTORCH, inputs, settings))
    assert psnr(theirs, bytes_of(micro.make(CPU, inputs, settings))) > 60
    assert psnr(theirs, bytes_of(micro.make(PYTORCH, inputs, plain))) < 50


def test_a_video_shorter_than_a_window_has_its_own_frames_alone(micro: Sides) -> None:
    settings, inputs = micro.settings(steps=2, fps=25), scene(micro, 2)
    theirs = bytes_of(micro.make(PYTORCH, inputs, settings))
    assert len(theirs) == 2
    assert psnr(theirs, bytes_of(micro.make(CPU, inputs, settings))) > 60


def test_both_tell_the_seconds_of_each_stage(micro: Sides) -> None:
    settings, inputs = micro.settings(steps=2, fps=25), scene(micro, 3)
    for video in (micro.make(CPU, inputs, settings), micro.make(PYTORCH, inputs, settings)):
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


def test_a_window_step_gives_the_same_latents_on_every_side_up_to_its_precision(micro: Sides) -> None:
    latents = {name: call() for name, call in micro.window_step_calls().items()}
    assert list(latents) == micro.names
    assert {array.shape for array in latents.values()} == {(3, 3, 4, 6)}
    ratios = {name: signal_to_noise(array, latents[PYTORCH]) for name, array in latents.items()}
    assert ratios.pop(PYTORCH) == math.inf
    for name, ratio in ratios.items():
        assert (20 < ratio < 80) if "bf16" in name else ratio > 80


def test_autocast_computes_in_bfloat16_and_its_video_is_near(micro: Sides) -> None:
    settings, inputs = micro.settings(steps=2, fps=25), scene(micro, 3)
    exact, cast = (micro.make(name, inputs, settings) for name in (PYTORCH, AUTOCAST))
    assert 30 < psnr(bytes_of(cast), bytes_of(exact)) < 80
    assert not torch.is_autocast_enabled("cpu")


def test_a_chip_without_bfloat16_has_no_side_under_autocast(
    micro_checkpoint: Path, micro_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sides_module, "cpu_model", lambda: CpuModel("a chip", flags=frozenset({"avx2"})))
    with Sides(micro_checkpoint, micro_bundle, threads=1, runtimes=[CPU]) as sides:
        assert sides.names == [PYTORCH, CPU]
        assert "no bfloat16 arithmetic" in sides.missing[AUTOCAST]


def test_a_provider_that_cannot_run_is_missing_with_its_reason(
    micro_checkpoint: Path, micro_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, OPENVINO, Runtime("tensorrt"))
    with Sides(micro_checkpoint, micro_bundle, threads=1, runtimes=[CPU, OPENVINO]) as sides:
        assert OPENVINO not in sides.names
        assert "TensorRT" in sides.missing[OPENVINO]


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


def test_upstreams_way_gives_what_the_engine_gives() -> None:
    torch.manual_seed(0)
    unet = NETWORKS["denoising_unet"](MICRO).eval()
    spec = engine_specs(MICRO.model_config(), MICRO_SHAPE)["denoiser"]
    given = {t.name: torch.from_numpy(x) for t, x in zip(spec.inputs, random_inputs(spec), strict=True)}
    keys = {name.partition("/")[2]: x for name, x in given.items() if name.startswith("reference_key/")}
    features = {name: torch.randn(1, k.shape[1], k.shape[0] * k.shape[2]) for name, k in keys.items()}
    common = list(given.values())[:6]
    with torch.inference_mode():
        pairs = reference_keys_values(unet, features)
        expected = make_engine(spec, {"denoising_unet": unet}, torch.float32)(
            *common, *(k for k, _ in pairs.values()), *(v for _, v in pairs.values())
        )
        found = UpstreamDenoiser(unet)(*common, features)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * float(other.abs().max()))
