"""All stages on TensorRT engines that share a GPU, with stand-ins; and real engines on a real GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.doubles import fake_kernels
from tests.doubles.fake_cuda import FakeCuda
from tests.doubles.fake_tensorrt import FakeTensorRT
from tests.doubles.fakes import COMPUTE, SMALL, FakeEngine, fake_specs
from tests.support import real_engines
from tests.support.engines import fake_tensorrt
from tests.support.tensorrt_plans import plan_of
from vexpress_rt.backends.base import Engine
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.tensorrt import engine as tensorrt
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, VideoShape
from vexpress_rt.diffusion.context_windows import plan_windows
from vexpress_rt.diffusion.denoiser import Denoiser
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.noise import frame_noise
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod
from vexpress_rt.diffusion.samplers import ddim
from vexpress_rt.pipeline import device_operations
from vexpress_rt.pipeline.device_operations import DeviceOperations
from vexpress_rt.stages.conditioning import WindowConditions, encode_audio, encode_portrait
from vexpress_rt.stages.frame_decoder import make_frames
from vexpress_rt.stages.spatial import SpatialFeatures, SpatialSignal
from vexpress_rt.utils.stopwatch import Stopwatch

LENGTH, STEPS = 10, 3
SHAPE = VideoShape(32, 32, 4)
SPECS = fake_specs(SMALL, SHAPE)
PHOTO = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
SPEECH = np.sin(np.arange(8000, dtype=np.float32) / 20)
Get = Callable[[str], Engine]
Make = Callable[[], np.ndarray]


def make_video(engine: Get, operations: DeviceOperations) -> np.ndarray:
    """Return LENGTH frames of PHOTO and SPEECH, made by all engines."""
    portrait = encode_portrait(engine("vae_encoder"), engine("reference_net"), PHOTO)
    features = encode_audio(engine("audio_encoder"), SPEECH, minimum=400)
    guidance = Guidance(3.5, 0.95, 3.0)
    denoiser = Denoiser(
        engines={"denoiser": engine("denoiser")},
        static=portrait,
        guidance=guidance,
        sampler=ddim(STEPS, alphas_cumprod(SMALL.train_timesteps, SMALL.beta_start, SMALL.beta_end)),
        windows=plan_windows(LENGTH, SHAPE.frames, 2),
        length=LENGTH,
        noise=lambda frame: frame_noise(1, frame, (SMALL.latent_channels, 4, 4)),
        conditions=WindowConditions(
            audio_projection=engine("audio_projection"),
            spatial=SpatialFeatures(
                engine,
                [SpatialSignal("keypoints", 1.0, lambda frame: np.full((32, 32, 3), 20 * frame, np.uint8))],
                engine("pose_guider").spec.outputs[0],
            ),
            length=LENGTH,
            feature_windows=lambda start, stop: np.stack(
                [features[i : i + SMALL.audio_rows] for i in range(start, stop)]
            ),
        ),
        latents=operations.latents,
    )
    latents = denoiser.run()
    frames = make_frames(engine("vae_decoder"), latents, operations.frames, Stopwatch(), median_filter=True, rgb=True)
    return np.stack(list(frames))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRT]:
    yield from fake_tensorrt(monkeypatch)


@pytest.fixture
def cuda(module: FakeTensorRT) -> FakeCuda:
    return module.cuda


@pytest.fixture
def executor(module: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    fake_kernels.install(monkeypatch, module.cuda)
    with Executor() as made:
        yield made


@pytest.fixture
def engines(module: FakeTensorRT, executor: Executor, tmp_path: Path) -> Iterator[dict[str, tensorrt.TensorRTEngine]]:
    """All engines of a bundle, on one GPU."""
    loaded = {
        name: tensorrt.load(
            module.write(tmp_path / f"{name}.engine", plan_of(SPECS[name])), SPECS[name], executor=executor
        )
        for name in ENGINE_NAMES
    }
    yield loaded
    for engine in loaded.values():
        engine.close()


@pytest.fixture
def make(engines: dict[str, tensorrt.TensorRTEngine], executor: Executor) -> Make:
    """A function that makes the video on the GPU."""
    return lambda: make_video(engines.__getitem__, device_operations.choose_device_operations(executor, None))


def on_the_cpu(name: str) -> Engine:
    return FakeEngine(SPECS[name], COMPUTE[name])


def test_a_video_has_the_frames_that_the_cpu_makes(make: Make) -> None:
    expected = make_video(on_the_cpu, device_operations.choose_device_operations(None, None))
    for _ in range(2):  # the second video replays the CUDA graphs of the first
        np.testing.assert_array_equal(make(), expected)
    assert len(np.unique(expected)) > 10


def test_per_step_only_scalars_go_to_the_gpu_and_only_frames_and_finished_latents_come_back(
    make: Make, cuda: FakeCuda
) -> None:
    make()
    windows = len(plan_windows(LENGTH, SHAPE.frames, 2))
    per_window = 3 * STEPS + 3  # timestep and weights; feature windows, keypoint maps and noise
    assert cuda.copies["HostToDevice"] == per_window * windows + 2  # photo and speech
    features = 1  # of the whole speech, before it is cut into windows
    checked = windows + 1  # finished latents; those of one window are in two pieces of the ring
    assert cuda.copies["DeviceToHost"] == features + checked + LENGTH


def test_engines_that_run_often_are_replayed_and_those_that_run_once_are_not_captured(
    engines: dict[str, tensorrt.TensorRTEngine], make: Make
) -> None:
    make()
    captured = {name for name, engine in engines.items() if engine.captured}
    assert captured == {"audio_projection", "pose_guider", "denoiser", "vae_decoder"}


def test_a_second_video_takes_no_more_memory(make: Make, cuda: FakeCuda) -> None:
    make()
    used = cuda.machine.used
    make()
    assert cuda.machine.used == used


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize(
    "target",
    [pytest.param("tensorrt", marks=pytest.mark.tensorrt), pytest.param("tensorrt-rtx", marks=pytest.mark.rtx)],
)
def test_a_gpu_runs_built_engines(target: str, tmp_path: Path) -> None:
    done = real_engines.start(target, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
