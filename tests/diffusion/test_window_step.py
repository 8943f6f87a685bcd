"""The steps of a window on the host and on a GPU, as a live session runs them, against a plain loop over arrays."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from tests.doubles.fakes import COMPUTE, SMALL, FakeEngine
from tests.doubles.fakes import predict as fake_predict
from tests.support.gpu_denoiser import gpus
from tests.support.kernel_cases import assert_same_bits
from tests.support.window_denoisers import (
    ALPHAS,
    AUDIO,
    FRAMES,
    NOTHING,
    SAMPLER,
    SPECS,
    START,
    STEPS,
    make_window_denoiser,
    reference,
    stacked,
)
from vexpress_rt.bundle.engine_spec import (
    ENGINE_NAMES,
    TIMESTEP,
    TIMESTEP_SINES,
    EngineSpec,
    VideoShape,
    engine_specs,
)
from vexpress_rt.bundle.timestep_sines import timestep_sines
from vexpress_rt.config import SAMPLERS
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.samplers import Sampler, make_sampler
from vexpress_rt.errors import BackendError
from vexpress_rt.live.window_denoiser import FADE
from vexpress_rt.native.latent_step import guide, take_step
from vexpress_rt.pipeline import device_operations


def plain_window(
    predict: Callable[[np.ndarray, int], np.ndarray], sampler: Sampler, noise: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """A window as a plain loop over whole arrays, with the correction written out."""
    state, count = [noise.copy(), *(np.zeros_like(noise) for _ in range(sampler.state_size - 1))], len(held)
    distance = np.maximum(np.arange(len(noise)) - (count - 1), 0)
    weights = np.maximum(1 - distance / (FADE + 1), 0).astype(np.float32)[:, None, None, None]
    for step, coefficients in enumerate(sampler.coefficients):
        alpha, sigma = (np.float32(part**0.5) for part in (sampler.alpha_bars[step], 1 - sampler.alpha_bars[step]))
        state[0][:count] = alpha * held + sigma * noise[:count]
        v = predict(state[0], step)
        if count:
            v = v - weights * (v[count - 1] - (alpha * noise[count - 1] - sigma * held[-1]))
        state = take_step(state, v, coefficients)
    return state[0][count:]


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, FRAMES - 1])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_window_gives_a_plain_loops_numbers_bit_for_bit_on_host_and_gpu(
    name: str, scale: float, count: int, on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an unconditional pass in every second step."""
    sampler, guidance = make_sampler(name, STEPS, ALPHAS), Guidance(scale, 0.9, 2.5, uncond_interval=2)
    window, held = Window(0, START, START + FRAMES), stacked(100, 100 + count) if count else NOTHING
    plain = make_window_denoiser(guidance=guidance, sampler=sampler)
    inputs = {**reference(), **guidance.inputs(), **plain._conditions(window, AUDIO)}
    cached: np.ndarray | None = None

    def model(x: np.ndarray, step: int) -> np.ndarray:
        nonlocal cached
        timestep = np.array([sampler.timesteps[step]], np.float32)
        both = fake_predict(SPECS["denoiser"], {**inputs, "latents": x, "timestep": timestep})
        if scale == 1:
            return both["conditional"]
        if step % 2 == 0:
            cached = both["unconditional"]
        assert cached is not None
        return guide(cached, both["conditional"], scale)

    expected = plain_window(model, sampler, stacked(START, START + FRAMES), held)
    if not on_gpu:
        found = make_window_denoiser(guidance=guidance, sampler=sampler).denoise(window, held, AUDIO)
        assert found is not None
        assert_same_bits(found, expected)
        return
    for gpu in gpus(monkeypatch):
        denoisers = make_window_denoiser(
            guidance=guidance, sampler=sampler, get_engine=lambda name, gpu=gpu: gpu.engine(name, FRAMES),
            latents=device_operations.choose_device_operations(gpu.executor, None).latents,
        )  # fmt: skip
        for _ in range(2):
            found = denoisers.denoise(window, held, AUDIO)
            assert found is not None
            assert_same_bits(found, expected)
        denoisers.forget()


def test_an_engine_that_takes_the_sines_of_the_timestep_gets_them_in_its_place() -> None:
    spec = engine_specs(SMALL, VideoShape(16, 16, FRAMES), sines_as_input=True)["denoiser"]
    width = SMALL.block_out_channels[0]

    def compute(spec: EngineSpec, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        (timestep,) = (t for t in SAMPLER.timesteps if np.array_equal(inputs[TIMESTEP_SINES], timestep_sines(t, width)))
        return fake_predict(spec, {**inputs, TIMESTEP: np.array([timestep], np.float32)})

    engine = FakeEngine(spec, compute)
    engines = {name: FakeEngine(SPECS[name], COMPUTE[name]) for name in ENGINE_NAMES} | {"denoiser": engine}
    window = Window(0, START, START + FRAMES)
    found = make_window_denoiser(get_engine=engines.__getitem__).denoise(window, NOTHING, AUDIO)
    expected = make_window_denoiser().denoise(window, NOTHING, AUDIO)
    assert found is not None
    assert expected is not None
    assert_same_bits(found, expected)
    assert len(engine.calls) == STEPS
    assert not any(TIMESTEP in call for call in engine.calls)


def test_memory_is_allocated_for_the_first_windows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpu in gpus(monkeypatch):
        denoiser = make_window_denoiser(
            get_engine=lambda name, gpu=gpu: gpu.engine(name, FRAMES),
            latents=device_operations.choose_device_operations(gpu.executor, None).latents,
        )
        allocations = []
        for _ in range(4):
            before = Counter(gpu.cuda.calls)
            denoiser.denoise(Window(0, START, START + FRAMES), stacked(100, 102), AUDIO)
            made = gpu.cuda.calls - before
            made = gpu.cuda.calls - before
            allocations.append((made["cudaMalloc"], made["cudaFree"], made["cudaHostAlloc"]))
        assert allocations[0][0] >= 2  # state and totals
        assert [made[:2] for made in allocations[1:]] == [(0, 0)] * 3
        assert allocations[2:] == [(0, 0, 0)] * 2  # the second window's noise goes through the other pinned buffer
        denoiser.forget()


def test_only_the_windows_latents_leave_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpu in gpus(monkeypatch):
        denoisers = make_window_denoiser(
            get_engine=lambda name, gpu=gpu: gpu.engine(name, FRAMES),
            latents=device_operations.choose_device_operations(gpu.executor, None).latents,
        )
        denoisers.denoise(Window(0, START, START + FRAMES), stacked(100, 102), AUDIO)
        assert gpu.cuda.copies["DeviceToHost"] == 2  # and the audio features
        denoisers.forget()


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMallocFromPoolAsync", "cudaHostAlloc"])
def test_memory_that_runs_out_anywhere_in_a_window_is_told_and_the_next_window_is_denoised(
    function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    window, held = Window(0, START, START + FRAMES), stacked(100, 102)
    expected = make_window_denoiser().denoise(window, held, AUDIO)
    assert expected is not None
    for gpu in gpus(monkeypatch):
        denoisers = make_window_denoiser(
            get_engine=lambda name, gpu=gpu: gpu.engine(name, FRAMES),
            latents=device_operations.choose_device_operations(gpu.executor, None).latents,
        )
        succeeded = 0
        denoisers.denoise(window, held, AUDIO)  # loads the engines
        for call in range(100):
            before = gpu.cuda.calls[function]
            denoisers.forget()
            gpu.executor.pool.trim()
            gpu.cuda.failures[function] = [0] * call + [2, 2]
            with contextlib.suppress(BackendError):
                denoisers.denoise(window, held, AUDIO)
                succeeded += 1
            if gpu.cuda.calls[function] - before <= call:
                break
        else:
            raise AssertionError("there is no end of allocations")
        failed = call + 1 - succeeded
        assert failed >= {"cudaMalloc": 2, "cudaMallocFromPoolAsync": 3, "cudaHostAlloc": 1}[function]
        gpu.cuda.failures.clear()
        found = denoisers.denoise(window, held, AUDIO)
        assert found is not None
        assert_same_bits(found, expected)
        denoisers.forget()


def test_a_correction_that_cuda_refuses_is_told_and_the_next_window_is_denoised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    window, held = Window(0, START, START + FRAMES), stacked(100, 102)
    for gpu in gpus(monkeypatch):
        denoisers = make_window_denoiser(
            get_engine=lambda name, gpu=gpu: gpu.engine(name, FRAMES),
            latents=device_operations.choose_device_operations(gpu.executor, None).latents,
        )
        gpu.kernels.refused = 1
        with pytest.raises(BackendError, match="does not launch the kernel correct_predictions"):
            denoisers.denoise(window, held, AUDIO)
        found, expected = denoisers.denoise(window, held, AUDIO), make_window_denoiser().denoise(window, held, AUDIO)
        assert found is not None
        assert expected is not None
        assert_same_bits(found, expected)
        denoisers.forget()
