"""A window of a live session: frames that are held, those that go on from them, and their pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.window_denoisers import (
    ALPHAS,
    AUDIO,
    FRAMES,
    LATENT,
    NOTHING,
    SAMPLER,
    START,
    STEPS,
    Arrays,
    make_window_denoiser,
    noise,
    stacked,
)
from vexpress_rt.bundle.engine_spec import EngineSpec
from vexpress_rt.config import SAMPLERS
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.diffusion.denoiser import Denoiser
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.samplers import Sampler, make_sampler
from vexpress_rt.live.window_denoiser import FADE
from vexpress_rt.native import median_3x3x3, median_filter
from vexpress_rt.native.latent_step import take_step

# Held frames


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
        engines={name: denoiser.get_engine(name) for name in guidance.engines(STEPS)}, static=denoiser.reference,
        guidance=guidance, sampler=denoiser.sampler, windows=[Window(0, 0, FRAMES)], length=FRAMES,
        noise=lambda frame: noise(frame + 4), conditions=lambda window: conditions,
    )  # fmt: skip
    np.testing.assert_array_equal(found, np.concatenate([latent for _, latent in exact.run()]))


def test_a_windows_frames_have_their_own_noise_drawing_and_sound() -> None:
    denoiser = make_window_denoiser(keypoint_map=lambda frame: np.full((16, 16, 3), 20 * frame, np.uint8))
    denoiser.denoise(Window(0, 5, 5 + FRAMES), NOTHING, AUDIO)
    (call,) = denoiser.get_engine("pose_guider").calls  # type: ignore[attr-defined]
    assert call["drawings"][:, 0, 0, 0].tolist() == [20 * frame for frame in range(5, 5 + FRAMES)]
    np.testing.assert_array_equal(
        denoiser.get_engine("denoiser").calls[0]["latents"],  # type: ignore[attr-defined]
        stacked(5, 5 + FRAMES),
    )
    (call,) = denoiser.get_engine("audio_encoder").calls  # type: ignore[attr-defined]
    np.testing.assert_array_equal(call["samples"][0], AUDIO.samples)
    (rows,) = (call["feature_rows"] for call in denoiser.get_engine("audio_projection").calls)  # type: ignore[attr-defined]
    other = make_window_denoiser()
    other.denoise(Window(0, 3, 3 + FRAMES), NOTHING, AUDIO)
    (earlier,) = (call["feature_rows"] for call in other.get_engine("audio_projection").calls)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(rows[:-2], earlier[2:])


def picture(latent: np.ndarray) -> np.ndarray:
    engine = make_window_denoiser().get_engine("vae_decoder")
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
    calls = denoiser.get_engine("vae_decoder").calls  # type: ignore[attr-defined]
    assert len(calls) == decoded
    denoiser.forget()
    denoiser.decode(*latents[3:])
    assert len(calls) == decoded + (3 if filtered else 1)
