"""Denoising with latents on the GPU: the host's numbers bit for bit, no way over the host, and nothing left behind."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import fake_kernels
from tests.engines import CAPACITY, fake_tensorrt
from tests.fake_kernels import FakeKernels
from tests.fake_tensorrt import FakeTensorRT, Plan
from tests.fakes import FakeEngine, predict
from tests.kernel_cases import assert_same_bits
from tests.loopback import Loopback
from tests.test_denoise import make_denoiser, plans, specs, window_inputs
from tests.test_tensorrt_video import plan as plan_of
from vexpress_rt import device, placement
from vexpress_rt.backends import Engine
from vexpress_rt.backends.executor import Executor
from vexpress_rt.backends.tensorrt import load
from vexpress_rt.denoise import Denoiser, Guidance
from vexpress_rt.errors import BackendError
from vexpress_rt.windows import Window

LENGTH, FRAMES, OVERLAP, STEPS = 9, 4, 1, 3
WINDOWS = 3
VIDEO = (LENGTH, FRAMES, OVERLAP, STEPS)
VALUES = {"length": LENGTH, "frames": FRAMES, "overlap": OVERLAP, "steps": STEPS}
INPUTS = len(specs(FRAMES)["denoiser"].inputs)
Make = Callable[..., Denoiser]


class Gpu:
    """A GPU with a denoiser on it, which computes what the fake of its name does."""

    def __init__(self, module: FakeTensorRT, kernels: FakeKernels) -> None:
        self.module, self.cuda, self.kernels = module, module.cuda, kernels
        self.executor = Executor()
        self.plans: dict[str, Plan] = {}
        self.engines: dict[tuple[str, int], Engine] = {}

    def engine(self, name: str, frames: int) -> Engine:
        if (name, frames) not in self.engines:
            spec, file = specs(frames)[name], Path(__file__)  # any file will do: its content is the plan's name
            self.plans[name] = self.module.plans[file.read_bytes()] = plan_of(spec)
            self.engines[name, frames] = load(file, spec, executor=self.executor)
        return self.engines[name, frames]

    def denoiser(
        self, length: int, frames: int, overlap: int, steps: int, guidance: Guidance | None = None, **changes: Any
    ) -> Denoiser:
        """As `make_denoiser` makes it, with engine and latents on the GPU."""
        engine = self.engine((guidance or Guidance(3.5, 1, 1)).engine, frames)
        latents = placement.choose(self.executor, None).latents
        changes = {"engine": engine, "latents": latents} | changes
        return make_denoiser(length, frames, overlap, steps, guidance, **changes)

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()
        self.executor.close()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    yield from gpus(monkeypatch)


def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    for module in fake_tensorrt(monkeypatch):
        made = Gpu(module, fake_kernels.install(monkeypatch, module.cuda))
        yield made
        made.close()
        assert module.cuda.machine.violations == []


def values(denoiser: Denoiser, schedule: str = "wavefront") -> np.ndarray:
    """Latents (length, c, h, w), brought to the host when all are done: what was handed out does not change."""
    latents: dict[int, Any] = dict(denoiser.run(schedule))
    assert list(latents) == list(range(denoiser.length))
    arrays = [latent if isinstance(latent, np.ndarray) else latent.host() for latent in latents.values()]
    return np.concatenate(arrays)


EXPECTED = values(make_denoiser(**VALUES))


# Values


@given(
    plan=plans(),
    steps=st.integers(1, 4),
    scale=st.sampled_from([0.0, 1.0, 3.5]),
    schedule=st.sampled_from(["wavefront", "breadth"]),
)
def test_latents_on_the_gpu_have_the_hosts_values_bit_for_bit(
    plan: tuple[int, int, int], steps: int, scale: float, schedule: str
) -> None:
    guidance = Guidance(scale, 0.95, 3.0)
    with pytest.MonkeyPatch.context() as patch:
        for gpu in gpus(patch):
            found = values(gpu.denoiser(*plan, steps, guidance), schedule)
            assert_same_bits(found, values(make_denoiser(*plan, steps, guidance), schedule))


def test_videos_by_turns_do_not_disturb_each_other(gpu: Gpu) -> None:
    noises = [lambda frame, by=by: np.full((4, 2, 2), frame + by, np.float32) for by in range(2)]
    runs = [gpu.denoiser(**VALUES, noise=noise).run() for noise in noises]
    found = [[latent.host() for _, latent in pair] for pair in zip(*runs, strict=True)]  # type: ignore[union-attr]
    for video, noise in zip(zip(*found, strict=True), noises, strict=True):
        assert_same_bits(np.concatenate(video), values(make_denoiser(**VALUES, noise=noise)))


def test_videos_in_several_threads_do_not_disturb_each_other(gpu: Gpu) -> None:
    gpu.engine("denoiser", FRAMES)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: values(gpu.denoiser(**VALUES)), range(8)):
            assert_same_bits(found, EXPECTED)


# Copies and memory


def test_noise_and_scalars_are_all_that_goes_to_the_gpu_and_nothing_comes_back(gpu: Gpu) -> None:
    for _ in gpu.denoiser(*VIDEO).run():
        pass
    gpu.executor.settle()
    steps, noise = WINDOWS * STEPS, WINDOWS
    assert gpu.cuda.copies["HostToDevice"] == steps * (INPUTS - 1) + noise  # the other inputs are arrays here
    assert gpu.cuda.copies["DeviceToHost"] == 0


def test_the_host_goes_on_while_the_gpu_computes(gpu: Gpu) -> None:
    behind = []
    denoiser = gpu.denoiser(*VIDEO, progress=lambda done, total: behind.append(done - gpu.plans["denoiser"].runs))
    values(denoiser)
    assert len(behind) == WINDOWS * STEPS
    assert min(behind) >= 1


def test_memory_is_asked_for_once_a_video_and_not_once_a_step(gpu: Gpu) -> None:
    asked = []
    for steps in (3, 3, 6, 12):
        before = Counter(gpu.cuda.calls)
        values(gpu.denoiser(FRAMES, FRAMES, 0, steps))
        asked.append((gpu.cuda.calls - before)["cudaMalloc"])
    assert asked[1:] == [2, 2, 2]  # latents and totals


def test_memory_is_back_after_a_video(gpu: Gpu) -> None:
    values(gpu.denoiser(*VIDEO))
    gpu.executor.spares.clear()
    used, pinned = gpu.cuda.machine.used, len(gpu.cuda.machine.memory)
    values(gpu.denoiser(*VIDEO))
    gpu.executor.spares.clear()
    assert (gpu.cuda.machine.used, len(gpu.cuda.machine.memory)) == (used, pinned)


@pytest.mark.parametrize("end", ["close", "drop", "drop in a cycle"])
def test_memory_is_back_when_a_video_is_given_up(gpu: Gpu, end: str) -> None:
    values(gpu.denoiser(*VIDEO))
    gpu.executor.spares.clear()
    used = len(gpu.cuda.machine.memory)
    frames = gpu.denoiser(*VIDEO).run()
    next(frames)
    assert len(gpu.cuda.machine.memory) > used
    if end == "close":
        frames.close()  # type: ignore[attr-defined]
    cycle = [frames] if end == "drop in a cycle" else []  # in which Python finalizes in any order
    cycle.append(cycle)  # type: ignore[arg-type]
    del frames, cycle
    gc.collect()
    gpu.executor.spares.clear()
    assert len(gpu.cuda.machine.memory) == used


def test_latents_outlive_what_made_them(gpu: Gpu) -> None:
    frame, latent = next(gpu.denoiser(*VIDEO).run())
    gpu.close()
    assert_same_bits(latent.host()[0], EXPECTED[frame])  # type: ignore[union-attr]


def test_a_video_may_be_dropped_after_its_engines_were_closed(gpu: Gpu) -> None:
    frames = gpu.denoiser(*VIDEO).run()
    next(frames)
    gpu.close()
    frames.close()  # type: ignore[attr-defined]
    gc.collect()
    assert gpu.cuda.left() == []


# Failures


def check_next_run(gpu: Gpu) -> None:
    """Nothing is left of the one before, and the next gives what it should."""
    gpu.executor.settle()
    assert_same_bits(values(gpu.denoiser(*VIDEO)), EXPECTED)


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaHostAlloc"])
def test_memory_that_runs_out_anywhere_is_told_and_the_next_run_works(gpu: Gpu, function: str) -> None:
    gpu.engine("denoiser", FRAMES)
    told = []
    for call in range(100):
        before = gpu.cuda.calls[function]
        gpu.executor.spares.clear()
        gpu.cuda.failures[function] = [0] * call + [2, 2]
        try:
            assert_same_bits(values(gpu.denoiser(*VIDEO)), EXPECTED)
        except BackendError as error:
            told.append(str(error))
        if gpu.cuda.calls[function] - before <= call:
            break
    else:
        raise AssertionError("there is no end of allocations")
    gpu.cuda.failures.clear()
    assert len(told) > 2 if function == "cudaMalloc" else told
    assert all("memory ran out" in text or "pinned host memory" in text for text in told)
    check_next_run(gpu)


def test_no_room_for_the_frames_in_flight_says_how_many_they_are(gpu: Gpu) -> None:
    gpu.engine("denoiser", FRAMES)
    with device.allocate(CAPACITY - gpu.cuda.machine.used - 100), pytest.raises(BackendError) as caught:
        values(gpu.denoiser(*VIDEO))
    assert str(caught.value).startswith("latents of 9 frames in flight: the GPU's memory ran out")
    check_next_run(gpu)


def test_a_launch_that_cuda_refuses_is_told(gpu: Gpu) -> None:
    gpu.kernels.refused = 1
    with pytest.raises(BackendError, match="does not launch the kernel guided_step"):
        values(gpu.denoiser(*VIDEO))
    check_next_run(gpu)


def test_a_computation_that_fails_on_the_gpu_is_told(gpu: Gpu) -> None:
    gpu.engine("denoiser", FRAMES)
    gpu.plans["denoiser"].broken = 1
    with pytest.raises(BackendError, match="illegal memory access"):
        values(gpu.denoiser(*VIDEO))
    check_next_run(gpu)


@pytest.mark.parametrize("window", range(WINDOWS))
def test_failing_conditions_leave_nothing_behind(gpu: Gpu, window: int) -> None:
    def conditions(asked: Window) -> Mapping[str, np.ndarray]:
        if asked.index == window:
            raise KeyboardInterrupt
        return window_inputs(asked)

    check_next_run(gpu)
    gpu.executor.spares.clear()
    used = len(gpu.cuda.machine.memory)
    with pytest.raises(KeyboardInterrupt):
        values(gpu.denoiser(*VIDEO, conditions=conditions))
    gpu.executor.spares.clear()
    assert len(gpu.cuda.machine.memory) == used


# On a GPU


@pytest.mark.gpu
@pytest.mark.nvcc
@pytest.mark.parametrize("scale", [3.5, 1.0])
@pytest.mark.parametrize("schedule", ["wavefront", "breadth"])
@pytest.mark.parametrize("plan", [(3, 6, 2), (23, 6, 4), (17, 8, 0)])
def test_a_gpu_gives_the_hosts_values_bit_for_bit(plan: tuple[int, int, int], schedule: str, scale: float) -> None:
    guidance = Guidance(scale, 0.95, 3.0)
    expected = values(make_denoiser(*plan, 4, guidance), schedule)
    with Executor() as executor:
        engine = Loopback(FakeEngine(specs(plan[1])[guidance.engine], predict), executor)
        latents = placement.choose(executor, None).latents
        assert isinstance(latents, partial)  # the kernels were found
        found = values(make_denoiser(*plan, 4, guidance, engine=engine, latents=latents), schedule)
    assert_same_bits(found, expected)
    assert all("latents" in there for there in engine.left_there)
