"""Denoising with latents on the GPU: the host's values bit for bit, without copies to the host or leaked memory."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles.fakes import FakeEngine, predict
from tests.doubles.loopback import Loopback
from tests.support.denoisers import ALPHAS, GUIDANCES, make_denoiser, plans, specs
from tests.support.device_memory import fill
from tests.support.gpu_denoiser import EXPECTED, FRAMES, INPUTS, STEPS, VIDEO, WINDOWS, Gpu, gpus, values
from tests.support.kernel_cases import assert_same_bits
from tests.support.micro_videos import generate
from vexpress_rt.backends.base import SharedExecutor
from vexpress_rt.backends.cuda.executor import CudaTensor, Executor
from vexpress_rt.backends.onnxruntime.provider import load_on_cpu
from vexpress_rt.backends.provider import EngineLoader
from vexpress_rt.backends.registry import ProviderSelection, find_provider
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.config import SAMPLERS
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.latents import LatentRing
from vexpress_rt.diffusion.samplers import make_sampler
from vexpress_rt.pipeline import device_operations
from vexpress_rt.pipeline import generator as generator_module
from vexpress_rt.pipeline.generator import Generator


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    yield from gpus(monkeypatch)


# Values


@given(
    plan=plans(),
    steps=st.integers(1, 4),
    guidance=GUIDANCES,
    window_order=st.sampled_from(["wavefront", "step_major"]),
    name=st.sampled_from(SAMPLERS),
)
def test_latents_on_the_gpu_have_the_hosts_values_bit_for_bit(
    plan: tuple[int, int, int], steps: int, guidance: Guidance, window_order: str, name: str
) -> None:
    sampler = make_sampler(name, steps, ALPHAS)
    with pytest.MonkeyPatch.context() as patch:
        for gpu in gpus(patch):
            found = values(gpu.denoiser(*plan, steps, guidance, sampler=sampler), window_order)
            assert_same_bits(found, values(make_denoiser(*plan, steps, guidance, sampler=sampler), window_order))


def test_videos_by_turns_do_not_disturb_each_other(gpu: Gpu) -> None:
    noises = [lambda frame, by=by: np.full((4, 2, 2), frame + by, np.float32) for by in range(2)]
    runs = [gpu.denoiser(*VIDEO, noise=noise).run() for noise in noises]
    found = [[latent.numpy() for _, latent in pair] for pair in zip(*runs, strict=True)]  # type: ignore[union-attr]
    for video, noise in zip(zip(*found, strict=True), noises, strict=True):
        assert_same_bits(np.concatenate(video), values(make_denoiser(*VIDEO, noise=noise)))


def test_videos_in_several_threads_do_not_disturb_each_other(gpu: Gpu) -> None:
    gpu.engine("denoiser", FRAMES)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: values(gpu.denoiser(*VIDEO)), range(8)):
            assert_same_bits(found, EXPECTED)


# Copies and memory


def test_noise_and_scalars_are_all_that_goes_to_the_gpu_and_finished_latents_all_that_comes_back(gpu: Gpu) -> None:
    for _ in gpu.denoiser(*VIDEO).run():
        pass
    gpu.executor.synchronize()
    steps, noise = WINDOWS * STEPS, WINDOWS
    assert gpu.cuda.copies["HostToDevice"] == steps * (INPUTS - 1) + noise  # the other inputs are arrays here
    assert gpu.cuda.copies["DeviceToHost"] == WINDOWS  # to be looked at, those of a window at once


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
    gpu.executor.pool.trim()
    used, pinned = gpu.cuda.machine.used, len(gpu.cuda.machine.memory)
    values(gpu.denoiser(*VIDEO))
    gpu.executor.pool.trim()
    assert (gpu.cuda.machine.used, len(gpu.cuda.machine.memory)) == (used, pinned)


@pytest.mark.parametrize("end", ["close", "drop", "drop in a cycle"])
def test_memory_is_back_when_a_video_is_given_up(gpu: Gpu, end: str) -> None:
    values(gpu.denoiser(*VIDEO))
    gpu.executor.pool.trim()
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
    gpu.executor.pool.trim()
    assert len(gpu.cuda.machine.memory) == used


def test_latents_outlive_what_made_them(gpu: Gpu) -> None:
    frame, latent = next(gpu.denoiser(*VIDEO).run())
    gpu.close()
    assert_same_bits(latent.numpy()[0], EXPECTED[frame])  # type: ignore[union-attr]


def test_a_video_may_be_dropped_after_its_engines_were_closed(gpu: Gpu) -> None:
    frames = gpu.denoiser(*VIDEO).run()
    next(frames)
    gpu.close()
    frames.close()  # type: ignore[attr-defined]
    gc.collect()
    assert gpu.cuda.left() == []


def test_predictions_of_another_stream_are_waited_for(gpu: Gpu) -> None:
    window, shape = Window(0, 0, 2), (1, 2, 2)
    latents = device_operations.choose_device_operations(gpu.executor, None).latents(LatentRing((window,), 1), shape, 1)
    latents.write(0, np.ones((2, *shape), np.float32))
    with Executor() as other:
        buffer = other.pool.acquire(32, "predictions", other.compute)
        fill(buffer, 0, other.compute)
        zeros = CudaTensor((2, *shape), "float32", buffer, other.compute.record(), other.pool)
        latents.step(window, None, zeros, 1, ((0.5, 1),))
        np.testing.assert_array_equal(latents.take(1).numpy(), np.full((1, *shape), 0.5))  # type: ignore[union-attr]
        latents.close()
        zeros.close()


# On a GPU


@pytest.mark.gpu
@pytest.mark.nvcc
@pytest.mark.parametrize("guidance", [Guidance(3.5, 1, 3), Guidance(1, 1, 3), Guidance(3.5, 1, 3, (0.2, 0.9), 2)])
@pytest.mark.parametrize("window_order", ["wavefront", "step_major"])
@pytest.mark.parametrize("plan", [(3, 6, 2), (23, 6, 4), (17, 8, 0)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_gpu_gives_the_hosts_values_bit_for_bit(
    plan: tuple[int, int, int], window_order: str, guidance: Guidance, name: str
) -> None:
    sampler = make_sampler(name, 4, ALPHAS)
    expected = values(make_denoiser(*plan, 4, guidance, sampler=sampler), window_order)
    with Executor() as executor:
        engines = {e: Loopback(FakeEngine(specs(plan[1])[e], predict), executor) for e in guidance.engines(4)}
        latents = device_operations.choose_device_operations(executor, None).latents
        assert isinstance(latents, partial)  # the kernels were found
        denoiser = make_denoiser(*plan, 4, guidance, sampler=sampler, engines=engines, latents=latents)
        found = values(denoiser, window_order)
    assert_same_bits(found, expected)
    assert all("latents" in there for engine in engines.values() for there in engine.kept_inputs)


class LoopbackLoader(EngineLoader):
    """A loader of a bundle's engines that compute on the CPU with tensors on the GPU."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def load(
        self,
        name: str,
        *,
        threads: int | None = None,
        executor: SharedExecutor | None = None,
        share_weights: bool = False,
    ) -> Loopback:
        assert isinstance(executor, Executor)
        return Loopback(load_on_cpu(self.bundle, name, threads), executor)


def select_loopback(name: str, bundle: Bundle, *options: object) -> ProviderSelection:
    return ProviderSelection(find_provider("cuda"), "requested", LoopbackLoader(bundle))


def check_whole_video(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Generator(bundle, provider="cpu") as generator:
        expected = generate(generator)
    monkeypatch.setattr(generator_module, "choose", select_loopback)
    with Generator(bundle) as generator:
        assert generator._pipeline._device_operations().frames.keep_on_device
        for _ in range(2):
            np.testing.assert_array_equal(generate(generator), expected)


@pytest.mark.gpu
@pytest.mark.nvcc
def test_a_whole_video_with_latents_and_frames_on_a_gpu_is_that_of_the_host(
    micro_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_whole_video(micro_bundle, monkeypatch)
