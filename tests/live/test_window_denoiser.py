"""A window of a live session: frames that are held, those that go on from them, and their pictures."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles.fakes import COMPUTE, SMALL, FakeEngine, fake_specs
from tests.doubles.fakes import predict as fake_predict
from tests.support.gpu_denoiser import gpus
from tests.support.kernel_cases import assert_same_bits
from vexpress_rt.backends.base import Engine
from vexpress_rt.bundle.engine_spec import EngineSpec, VideoShape
from vexpress_rt.config import SAMPLERS
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.diffusion.denoiser import Denoiser
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.noise import frame_noise
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod
from vexpress_rt.diffusion.samplers import Sampler, ddim, make_sampler
from vexpress_rt.errors import BackendError
from vexpress_rt.live.window_denoiser import FADE, AudioContext, WindowDenoiser
from vexpress_rt.native import median_3x3x3, median_filter
from vexpress_rt.native.latent_step import guide, take_step
from vexpress_rt.pipeline import device_operations
from vexpress_rt.stages.frame_decoder import HostFrames

FRAMES, STEPS = 6, 4
Arrays = Mapping[str, np.ndarray]
SPECS = fake_specs(SMALL, VideoShape(16, 16, FRAMES))
LATENT = (SMALL.latent_channels, 2, 2)
ALPHAS = alphas_cumprod(SMALL.train_timesteps, SMALL.beta_start, SMALL.beta_end)
SAMPLER = ddim(STEPS, ALPHAS)
NOTHING = np.empty((0, 1, 1, 1), np.float32)  # no held frames


def noise(frame: int) -> np.ndarray:
    return frame_noise(1, frame, LATENT)


def stacked(start: int, stop: int) -> np.ndarray:
    return np.stack([noise(frame) for frame in range(start, stop)])


@cache
def reference() -> dict[str, np.ndarray]:
    tensors = [t for t in SPECS["denoiser"].inputs if t.name.startswith("reference_") and "/" in t.name]
    return {t.name: np.full(t.shape, 0.1, np.float32) for t in tensors}


def make_window_denoiser(compute: Mapping[str, Any] | None = None, **changes: Any) -> WindowDenoiser:
    """With fake engines; compute: of those that do not compute what the fake of their name does."""
    loaded: dict[str, Engine] = {}

    def engine(name: str) -> Engine:
        return loaded.setdefault(name, FakeEngine(SPECS[name], {**COMPUTE, **(compute or {})}[name]))

    values = {
        "engine": engine,
        "guidance": Guidance(2.0, 0.9, 2.5),
        "sampler": SAMPLER,
        "reference": reference(),
        "noise": noise,
        "keypoint_map": lambda frame: np.full((16, 16, 3), frame, np.uint8),
        "audio_rows": SMALL.audio_rows,
        "minimum_samples": 400,
        "postprocessing": HostFrames(),
        "median_filter": True,
    }
    return WindowDenoiser(**(values | changes))


AUDIO = AudioContext(np.sin(np.arange(640 * 12, dtype=np.float32) / 9), 2, 14)


# Held frames

START = 4  # the first frame of the windows below


def denoise_with(
    model: Callable[[np.ndarray, int], np.ndarray], sampler: Sampler, held: np.ndarray,
    proceed: Callable[[], bool] = lambda: True,
) -> np.ndarray | None:  # fmt: skip
    """Denoise a window without guidance; model: latents and the number of the step -> prediction."""
    steps = {timestep: step for step, timestep in enumerate(sampler.timesteps)}

    def compute(spec: EngineSpec, inputs: Arrays) -> dict[str, np.ndarray]:
        return {"conditional": model(inputs["latents"], steps[int(inputs["timestep"][0])])}

    denoisers = make_window_denoiser(
        guidance=Guidance(1.0, 0.9, 2.5), sampler=sampler, compute={"denoiser_cond": compute}
    )
    return denoisers.denoise(Window(0, START, START + FRAMES), held, AUDIO, proceed)


def velocity(pictures: np.ndarray, noise: np.ndarray, level: float) -> np.ndarray:
    """Return the prediction of a model that knows the clean latents."""
    return (np.sqrt(level) * noise - np.sqrt(1 - level) * pictures).astype(np.float32)


@given(st.integers(0, FRAMES - 1), st.sampled_from(SAMPLERS))
def test_held_frames_are_known_at_every_level_and_the_others_take_the_samplers_steps(count: int, name: str) -> None:
    """For a model that makes no mistake in held frames."""
    sampler = make_sampler(name, STEPS, ALPHAS)
    start, held = stacked(START, START + FRAMES), stacked(100, 100 + count) if count else NOTHING
    seen: list[np.ndarray] = []

    def model(x: np.ndarray, step: int) -> np.ndarray:
        seen.append(x.copy())
        right = velocity(held, start[:count], sampler.alpha_bars[step])
        return np.concatenate([right, np.tanh(x[count:]) + np.float32(step)]).astype(np.float32)

    found = denoise_with(model, sampler, held)
    assert found is not None
    assert found.shape == (FRAMES - count, *LATENT)
    free = [start[count:], *[np.zeros_like(start[count:])] * (sampler.state_size - 1)]
    for step, x in enumerate(seen):
        level = sampler.alpha_bars[step]
        np.testing.assert_allclose(x[:count], np.sqrt(level) * held + np.sqrt(1 - level) * start[:count], atol=1e-6)
        np.testing.assert_allclose(x[count:], free[0], atol=1e-5)
        free = take_step(free, np.tanh(free[0]) + np.float32(step), sampler.coefficients[step])
    assert len(seen) == STEPS
    np.testing.assert_allclose(found, free[0], atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_mistake_of_a_whole_window_fades_in_from_the_held_frames(name: str) -> None:
    sampler = make_sampler(name, STEPS, ALPHAS)
    assert FRAMES >= FADE + 4
    start, pictures = stacked(START, START + FRAMES), stacked(100, 100 + FRAMES)

    def model(x: np.ndarray, step: int) -> np.ndarray:
        return velocity(pictures + 1, start, sampler.alpha_bars[step])

    found = denoise_with(model, sampler, pictures[:2])
    assert found is not None
    # But where the sampler ends at a level that is not quite clean, some noise is left.
    mistake = (found - pictures[2:]).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(mistake, np.minimum(np.arange(1, FRAMES - 1) / (FADE + 1), 1), atol=0.01)
    everywhere = denoise_with(model, sampler, NOTHING)
    assert everywhere is not None
    np.testing.assert_allclose((everywhere - pictures).mean(axis=(1, 2, 3)), 1, atol=0.01)


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
            guidance=guidance, sampler=sampler, engine=lambda name, gpu=gpu: gpu.engine(name, FRAMES),
            latents=device_operations.choose_device_operations(gpu.executor, None).latents,
        )  # fmt: skip
        for _ in range(2):
            found = denoisers.denoise(window, held, AUDIO)
            assert found is not None
            assert_same_bits(found, expected)
        denoisers.forget()


def test_memory_is_allocated_for_the_first_windows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpu in gpus(monkeypatch):
        denoiser = make_window_denoiser(
            engine=lambda name, gpu=gpu: gpu.engine(name, FRAMES),
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
            engine=lambda name, gpu=gpu: gpu.engine(name, FRAMES),
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
            engine=lambda name, gpu=gpu: gpu.engine(name, FRAMES),
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
            engine=lambda name, gpu=gpu: gpu.engine(name, FRAMES),
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


def test_a_window_is_given_up_between_two_steps() -> None:
    steps: list[int] = []

    def model(x: np.ndarray, step: int) -> np.ndarray:
        steps.append(step)
        return x

    assert denoise_with(model, SAMPLER, NOTHING, lambda: len(steps) < 2) is None
    assert steps == [0, 1]


# The engines and the decoder


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "guidance",
    [Guidance(1.0, 0.9, 2.5), Guidance(2.0, 0.9, 2.5), Guidance(2.0, 0.9, 2.5, interval=(0.3, 1), uncond_interval=2)],
)
def test_a_window_without_held_frames_is_one_of_the_exact_mode(guidance: Guidance, sampler: str) -> None:
    denoiser = make_window_denoiser(guidance=guidance, sampler=make_sampler(sampler, STEPS, ALPHAS))
    window = Window(0, 4, 4 + FRAMES)
    found = denoiser.denoise(window, NOTHING, AUDIO)
    conditions = denoiser._conditions(window, AUDIO)
    exact = Denoiser(
        engines={name: denoiser.engine(name) for name in guidance.engines(STEPS)}, static=denoiser.reference,
        guidance=guidance, sampler=denoiser.sampler, windows=[Window(0, 0, FRAMES)], length=FRAMES,
        noise=lambda frame: noise(frame + 4), conditions=lambda window: conditions,
    )  # fmt: skip
    np.testing.assert_array_equal(found, np.concatenate([latent for _, latent in exact.run()]))


def test_a_windows_frames_have_their_own_noise_drawing_and_sound() -> None:
    denoiser = make_window_denoiser(keypoint_map=lambda frame: np.full((16, 16, 3), 20 * frame, np.uint8))
    denoiser.denoise(Window(0, 5, 5 + FRAMES), NOTHING, AUDIO)
    (call,) = denoiser.engine("pose_guider").calls  # type: ignore[attr-defined]
    assert call["drawings"][:, 0, 0, 0].tolist() == [20 * frame for frame in range(5, 5 + FRAMES)]
    np.testing.assert_array_equal(
        denoiser.engine("denoiser").calls[0]["latents"],  # type: ignore[attr-defined]
        stacked(5, 5 + FRAMES),
    )
    (call,) = denoiser.engine("audio_encoder").calls  # type: ignore[attr-defined]
    np.testing.assert_array_equal(call["samples"][0], AUDIO.samples)
    (rows,) = (call["feature_rows"] for call in denoiser.engine("audio_projection").calls)  # type: ignore[attr-defined]
    other = make_window_denoiser()
    other.denoise(Window(0, 3, 3 + FRAMES), NOTHING, AUDIO)
    (earlier,) = (call["feature_rows"] for call in other.engine("audio_projection").calls)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(rows[:-2], earlier[2:])


def picture(latent: np.ndarray) -> np.ndarray:
    engine = make_window_denoiser().engine("vae_decoder")
    return engine.run({"latent": latent[None]})["frame"]


def test_pictures_are_those_of_a_whole_clip_and_the_last_is_its_own_neighbour() -> None:
    latents, denoiser = list(stacked(0, 5) * 8), make_window_denoiser()
    frames = np.stack([picture(latent) for latent in latents])
    found = [denoiser.decode(*latents[i : i + 3]) for i in range(3)]
    np.testing.assert_array_equal(np.stack(found), median_filter(frames)[1:-1])
    last = denoiser.decode(*latents[3:], None)
    np.testing.assert_array_equal(last, median_3x3x3(frames[3], frames[4], frames[4]))


def test_pictures_may_stay_unfiltered() -> None:
    latents = stacked(0, 3) * 8
    found = make_window_denoiser(median_filter=False).decode(*latents)
    np.testing.assert_array_equal(found, picture(latents[1]))


@pytest.mark.parametrize(("filtered", "decoded"), [(True, 6), (False, 4)])
def test_each_picture_is_decoded_once(filtered: bool, decoded: int) -> None:
    denoiser, latents = make_window_denoiser(median_filter=filtered), list(stacked(0, 6))
    for i in range(4):
        denoiser.decode(*latents[i : i + 3])
    calls = denoiser.engine("vae_decoder").calls  # type: ignore[attr-defined]
    assert len(calls) == decoded
    denoiser.forget()
    denoiser.decode(*latents[3:])
    assert len(calls) == decoded + (3 if filtered else 1)
