"""Parts of the GPU check that make videos and measure times, run on the CPU with the runtime and with PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import engines, timings, torch_baseline, videos
from benchmarks.gpu.compare import psnr
from benchmarks.gpu.files import read_nv12
from benchmarks.gpu.parts import CheckFailedError, Figures, NotAvailableError
from benchmarks.gpu.scene import draw_scene, make_video
from benchmarks.gpu.torch_engines import TorchEngines
from benchmarks.gpu.torch_video import TorchVideo
from export.build.parity import relative_error
from export.checkpoint.reader import Checkpoint
from tests.conftest import GoldenSet
from tests.doubles.fakes import SHAPE, SMALL, FakeEngine, fake_specs
from tests.support.gpu_parts import ignore, options_of
from tests.support.micro import MICRO_SHAPE
from vexpress_rt.backends.base import Array
from vexpress_rt.backends.onnxruntime import engine as onnxruntime
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, EngineSpec, engine_specs
from vexpress_rt.pipeline.generator import Generator

pytestmark = pytest.mark.usefixtures("one_torch_thread")


SIZE = (MICRO_SHAPE.height, MICRO_SHAPE.width, MICRO_SHAPE.frames)

# Videos and times.


def test_a_whole_video_is_compared_twice(micro_bundle: Path) -> None:
    found = videos.check(options_of(micro_bundle), ignore)
    assert found["psnr"] == [np.inf, np.inf]
    assert found["repeats_exactly"] is True
    assert (found["frames"], found["steps"]) == (6, 4)
    assert found["grey_levels"] > 50
    assert found["file"]["psnr"] == found["file"]["psnr_by_host"] > 30


def test_a_video_below_forty_decibels_is_a_failure(micro_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "psnr", lambda found, expected: 39.9)
    with pytest.raises(CheckFailedError, match="expected at least 40"):
        videos.check(options_of(micro_bundle), ignore)


def test_a_file_that_is_not_of_the_frames_is_a_failure(micro_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "compare_file", lambda *given: {"psnr": 36.0, "psnr_by_host": 37.5})
    reported: list[Figures] = []
    with pytest.raises(CheckFailedError, match=r"the file has a PSNR of 36\.0 dB .* expected at least 36\.5"):
        videos.check(options_of(micro_bundle), reported.append)
    assert reported[-1]["file"]["psnr"] == 36.0


def test_a_video_is_written_or_kept_as_a_user_has_it(micro_bundle: Path, tmp_path: Path) -> None:
    scene = draw_scene(*SIZE, windows=1)
    with Generator(micro_bundle, provider="cpu") as generator:
        kept = make_video(generator, scene, 1)
        made = make_video(generator, scene, 1, tmp_path / "a.mp4")
    assert kept.frames is not None
    assert made.frames is None  # so that a GPU may convert them
    assert len(read_nv12(tmp_path / "a.mp4")) == len(kept.frames)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENGINE_SECONDS", "VIDEO_SECONDS"):
        monkeypatch.setattr(timings, name, 0.0)
    monkeypatch.setattr(timings, "SPEECH_SECONDS", 1)
    monkeypatch.setattr(timings, "PAIRS", 1)


@pytest.mark.usefixtures("quick")
def test_every_engine_a_window_step_and_a_whole_video_are_timed(micro_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "torch-eager.frames.npy", np.zeros((6, 16, 24, 3), np.uint8))
    options = options_of(micro_bundle, work=str(tmp_path), name="timings-cpu", steps=2)
    reported: list[Figures] = []
    with pytest.raises(CheckFailedError, match=r"^PSNR of \d+\.\d dB to the video of torch; expected at least 40$"):
        timings.measure_bundle(options, reported.append)
    found = reported[-1]
    assert list(found["engines"]) == list(ENGINE_NAMES)
    assert all(times["median"] > 0 and times["count"] >= 5 for times in found["engines"].values())
    assert found["window_step"]["count"] == 1
    assert found["video"]["seconds"]["median"] > 0
    assert {"denoise", "decode", "encode", "total"} <= set(found["video"]["stages"])
    assert found["video"]["file"]["psnr"] > 30
    assert found["video"]["grey_levels"] > 50
    assert 0 < found["video"]["psnr_to_torch_eager"] < 40
    assert np.load(tmp_path / "timings-cpu.frames.npy").shape == (6, 16, 24, 3)
    assert not list(tmp_path.glob("*.mp4"))


@pytest.mark.usefixtures("quick")
def test_sound_results_pass(micro_bundle: Path, tmp_path: Path) -> None:
    found = timings.measure_bundle(options_of(micro_bundle, work=str(tmp_path), name="timings-cpu", steps=1), ignore)
    assert all(times["not_finite"] == [] for times in found["engines"].values())
    assert "psnr_to_torch_eager" not in found["video"]


SOUND = {"grey_levels": 200, "file": {"psnr": 37.0, "psnr_by_host": 37.9}, "psnr_to_torch_eager": 40.0}
ENGINES = {"denoiser": {"not_finite": []}, "vae_decoder": {"not_finite": []}}


def test_results_at_the_limits_are_sound() -> None:
    timings.judge({"engines": ENGINES, "video": SOUND}, "fp16")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"psnr_to_torch_eager": 39.9}, "PSNR of 39.9 dB to the video of torch"),
        ({"psnr_to_torch_eager": 0.0}, "PSNR of 0.0 dB to the video of torch"),
        ({"grey_levels": 1}, "the video has a single grey level"),
        ({"file": {"psnr": 36.8, "psnr_by_host": 37.9}}, "the file has a PSNR of 36.8 dB"),
    ],
)
def test_a_video_that_is_not_sound_fails_its_part(change: dict[str, Any], why: str) -> None:
    with pytest.raises(CheckFailedError, match=re.escape(why)):
        timings.judge({"engines": ENGINES, "video": SOUND | change}, "fp16")


def test_in_bfloat16_a_video_may_be_further_off() -> None:
    timings.judge({"engines": ENGINES, "video": SOUND | {"psnr_to_torch_eager": 30.0}}, "bf16")


def test_engines_that_are_not_finite_fail_their_part_and_all_are_named() -> None:
    found = {"denoiser": {"not_finite": ["conditional"]}, "vae_decoder": {"not_finite": ["a", "b"]}}
    with pytest.raises(CheckFailedError, match=r"engine denoiser .* in conditional; engine vae_decoder .* in a, b$"):
        timings.judge({"engines": found, "video": SOUND}, "fp16")


def test_outputs_are_looked_at_once_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "ENGINE_SECONDS", 0.0)
    specs = fake_specs()

    def broken(spec: EngineSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {t.name: np.full(t.shape, np.nan if t.name == "conditional" else 1, t.dtype) for t in spec.outputs}

    made = {
        name: FakeEngine(specs[name], broken if name == "denoiser" else None, on_device=True) for name in ENGINE_NAMES
    }
    found = dict(timings.time_engines(made.__getitem__, lambda outputs: None))
    assert {name: times["not_finite"] for name, times in found.items() if times["not_finite"]} == {
        "denoiser": ["conditional"]
    }


def test_outputs_in_bfloat16_are_not_looked_at() -> None:
    spec = engine_specs(SMALL, SHAPE, "bf16")["pose_guider"]
    assert spec.outputs[0].dtype == "bfloat16"
    engine = FakeEngine(spec)
    assert timings.broken_outputs(engine, {}) == []
    assert engine.calls == []


def test_an_engine_is_given_what_the_ones_before_left_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "ENGINE_SECONDS", 0.0)
    specs = fake_specs()
    made = {name: FakeEngine(specs[name], on_device=True) for name in ENGINE_NAMES}
    waited: list[int] = []
    names = [name for name, _ in timings.time_engines(made.__getitem__, lambda outputs: waited.append(0))]
    assert names == list(ENGINE_NAMES)
    for name, engine in made.items():
        given = {t.name for t in engine.spec.inputs if t.name not in HOST}
        assert all(there == given for there in engine.kept_inputs), name
    assert len(waited) == sum(len(engine.calls) - 1 for engine in made.values())  # the last comes to the host


HOST = {
    "image", "samples", "feature_rows", "drawings", "latents", "timestep", "reference_attention_weight",
    "audio_attention_weight",
}  # fmt: skip


def test_a_window_step_is_the_difference_of_videos_that_differ_in_steps_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    class Made:
        def __init__(self, steps: int) -> None:
            asked.append(steps)
            self.timings = {"total": 5.0 + 0.25 * steps}

    found = timings.time_window_step(lambda scene, steps, output: Made(steps), draw_scene(16, 24, 3, 1))  # type: ignore[arg-type,return-value]
    assert found["median"] == pytest.approx(0.25)
    assert asked[:2] == [2, 6]
    assert sorted(asked[2:]) == sorted([2, 6] * timings.PAIRS)


# The same networks in PyTorch.


@pytest.fixture(scope="module")
def micro_torch(micro_checkpoint: Path) -> TorchEngines:
    return TorchEngines(Checkpoint(micro_checkpoint), MICRO_SHAPE, "fp32", "cpu")


def test_the_denoiser_that_is_timed_in_torch_is_the_one_that_is_exported(tiny_square: GoldenSet) -> None:
    bundle = Bundle.open(tiny_square.bundle)
    spec = bundle.specs["denoiser"]
    engine = TorchEngines(Checkpoint(tiny_square.checkpoint), bundle.manifest.shape, "fp32", "cpu").get("denoiser")
    inputs = engines.draw_inputs(engine, seed=3)
    found = engine.run(inputs)
    with onnxruntime.load(bundle.engine_path("denoiser"), spec) as exported:
        for name, expected in exported.run(inputs).items():
            assert relative_error(found[name], expected) < 5e-5


def test_a_video_in_torch_has_the_frames_of_the_runtime(micro_bundle: Path, micro_torch: TorchEngines) -> None:
    scene = draw_scene(*SIZE, windows=2)
    with Generator(micro_bundle, provider="cpu") as generator:
        expected = make_video(generator, scene, 3).frames
    found = TorchVideo(micro_torch, lambda: None).make(scene, 3).frames
    assert found is not None
    assert expected is not None
    assert psnr(found, expected) > 60
    assert len(np.unique(expected)) > 50


@pytest.mark.usefixtures("quick")
def test_torch_is_timed_like_the_runtime(micro_torch: TorchEngines, tmp_path: Path) -> None:
    waits: list[int] = []
    names = [name for name, _ in timings.time_engines(micro_torch.get, lambda outputs: waits.append(0))]
    assert names == list(ENGINE_NAMES)
    assert len(waits) >= 6 * len(names)
    video = TorchVideo(micro_torch, lambda: waits.append(0))
    options = {"work": str(tmp_path), "name": "torch-eager", "steps": 2}
    found: Figures = {}
    timings.time_videos(video.make, SIZE, options, found, ignore)
    assert found["video"]["stages"].keys() >= {"portrait", "audio", "denoise", "decode", "median", "encode", "total"}
    assert (tmp_path / "torch-eager.frames.npy").is_file()


def test_without_a_gpu_for_torch_there_is_no_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(NotAvailableError, match=r"PyTorch .* finds no GPU"):
        torch_baseline.measure_modules({}, ignore)


def test_an_engine_in_torch_takes_arrays_and_what_another_left(micro_torch: TorchEngines) -> None:
    encoder, reference_net = micro_torch.get("vae_encoder"), micro_torch.get("reference_net")
    image = engines.draw_inputs(encoder, seed=0)
    left = encoder.run(image, keep_on_device=True)
    kept = reference_net.run(left)
    again = reference_net.run({"latent": encoder.run_positional(image["image"])[0]})
    assert {t.name: t.shape for t in reference_net.spec.outputs} == {name: a.shape for name, a in kept.items()}
    assert all(np.array_equal(kept[name], again[name]) for name in kept)
