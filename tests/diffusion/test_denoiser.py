"""Denoising: wavefront order against a plain loop, the engine's inputs, and the memory in use."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles.fakes import FakeEngine, predict
from tests.support.denoisers import (
    ALPHAS,
    GUIDANCES,
    LATENT,
    Arrays,
    calls,
    make_denoiser,
    noise,
    plans,
    run,
    specs,
    static_inputs,
    window_inputs,
)
from vexpress_rt.bundle.engine_spec import EngineSpec
from vexpress_rt.config import SAMPLERS, WINDOW_ORDERS
from vexpress_rt.diffusion.context_windows import Window, plan_windows
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.latents import HostLatents, LatentRing, Latents
from vexpress_rt.diffusion.samplers import Sampler, make_sampler
from vexpress_rt.errors import BackendError
from vexpress_rt.native.latent_step import take_step


def plain_loop(length: int, frames: int, overlap: int, sampler: Sampler, guidance: Guidance) -> np.ndarray:
    """Denoise a whole video step by step over all windows, in the public implementation's order."""
    total = max(length, frames)
    windows = plan_windows(length, frames, overlap)
    weights = {
        "reference_attention_weight": np.array([guidance.reference_weight], np.float32),
        "audio_attention_weight": np.array([guidance.audio_weight], np.float32),
    }
    state = [np.stack([noise(frame) for frame in range(total)])]
    state += [np.full_like(state[0], np.nan)] * (sampler.state_size - 1)
    covered = np.zeros((total, 1, 1, 1), np.float32)
    for window in windows:
        covered[window.start : window.stop] += 1
    low, high = guidance.interval
    guided_steps, held = 0, dict[int, np.ndarray]()
    for step, (timestep, coefficients) in enumerate(zip(sampler.timesteps, sampler.coefficients, strict=True)):
        x = state[0]
        prediction = np.zeros_like(x)
        guides = guidance.scale > 1 and low <= (step + 0.5) / len(sampler) <= high
        for window in windows:
            part = slice(window.start, window.stop)
            time = np.array([timestep], np.float32)
            inputs = {**static_inputs(frames), **window_inputs(window), **weights, "latents": x[part], "timestep": time}
            both = predict(specs(frames)["denoiser"], inputs)
            guided = both["conditional"]
            if guides:
                if guided_steps % guidance.uncond_interval == 0:
                    held[window.index] = both["unconditional"]
                guided = held[window.index] + np.float32(guidance.scale) * (guided - held[window.index])
            prediction[part] += guided / covered[part]
        guided_steps += guides
        state = take_step(state, prediction, coefficients)
    return state[0][:length]


@given(plans(), st.integers(1, 6), st.sampled_from(SAMPLERS), GUIDANCES)
def test_every_sampler_and_guidance_gives_a_plain_loops_numbers_bit_for_bit_in_either_order(
    plan: tuple[int, int, int], steps: int, name: str, guidance: Guidance
) -> None:
    sampler = make_sampler(name, steps, ALPHAS)
    expected = plain_loop(*plan, sampler, guidance)
    for order in WINDOW_ORDERS:
        found = run(make_denoiser(*plan, steps, guidance, sampler=sampler), order)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


def test_running_again_starts_anew() -> None:
    denoiser = make_denoiser(length=3, frames=5, overlap=1, steps=2)
    np.testing.assert_array_equal(run(denoiser), run(denoiser))


def test_a_run_that_was_given_up_leaves_nothing_to_the_next() -> None:
    denoiser = make_denoiser(length=9, frames=4, overlap=1, steps=3)
    expected = run(denoiser)
    given_up = denoiser.run()
    next(given_up)
    given_up.close()
    np.testing.assert_array_equal(run(denoiser), expected)


def test_timestep_and_weights_are_inputs_of_every_call() -> None:
    denoiser = make_denoiser(length=6, frames=4, overlap=2, steps=3, guidance=Guidance(2.0, 0.5, 1.25))
    run(denoiser, "step_major")
    given = calls(denoiser)
    assert [float(call["timestep"][0]) for call in given] == [999, 999, 666, 666, 332, 332]
    assert {float(call["reference_attention_weight"][0]) for call in given} == {0.5}
    assert {float(call["audio_attention_weight"][0]) for call in given} == {1.25}


def test_every_call_gets_the_portraits_features_and_its_windows_conditions() -> None:
    denoiser = make_denoiser(length=6, frames=4, overlap=2, steps=2)
    run(denoiser, "step_major")
    for call, window in zip(calls(denoiser), denoiser.windows * 2, strict=True):  # type: ignore[operator]
        for name, expected in {**static_inputs(4), **window_inputs(window)}.items():
            np.testing.assert_array_equal(call[name], expected)


def counting(function: Callable[[Any], Any]) -> tuple[Callable[[Any], Any], Counter[Any]]:
    counts: Counter[Any] = Counter()

    def counted(argument: Any) -> Any:
        counts[argument] += 1
        return function(argument)

    return counted, counts


@pytest.mark.parametrize("window_order", ["wavefront", "step_major"])
def test_noise_is_asked_once_a_frame_and_conditions_once_a_window(window_order: str) -> None:
    noises, frames = counting(noise)
    conditions, windows = counting(window_inputs)
    denoiser = make_denoiser(length=23, frames=6, overlap=4, steps=4, noise=noises, conditions=conditions)
    run(denoiser, window_order)
    assert frames == Counter(range(23))
    assert windows == Counter(denoiser.windows)


def test_surplus_frames_of_a_short_video_are_denoised_and_dropped() -> None:
    noises, frames = counting(noise)
    latents = run(make_denoiser(length=3, frames=6, overlap=4, steps=2, noise=noises))
    assert latents.shape == (3, *LATENT)
    assert frames == Counter(range(6))


class Conditions(dict[str, Any]):
    """A dict that supports weak references."""


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_conditions_alive_are_those_of_as_many_windows_as_steps(steps: int) -> None:
    alive: Counter[str] = Counter()
    most = []

    def conditions(window: Window) -> Mapping[str, Any]:
        made = Conditions(window_inputs(window))
        alive["windows"] += 1
        weakref.finalize(made, alive.subtract, ["windows"])
        most.append(alive["windows"])
        return made

    run(make_denoiser(length=22 * 4 + 2, frames=6, overlap=2, steps=steps, conditions=conditions))
    assert len(most) == 22
    assert max(most) == steps
    assert alive["windows"] == 0


@pytest.mark.parametrize(("window_order", "most"), [("wavefront", 6 + 3 * 4), ("step_major", 120)])
def test_only_in_step_major_order_frames_in_flight_grow_with_the_video(window_order: str, most: int) -> None:
    slots = []

    def latents(ring: LatentRing, shape: tuple[int, ...], state_size: int) -> Latents:
        slots.append(ring.slots)
        return HostLatents(ring, shape, state_size)

    run(make_denoiser(length=120, frames=6, overlap=2, steps=3, latents=latents), window_order)
    assert slots[0] <= most


@pytest.mark.parametrize(("window_order", "needed"), [("wavefront", 6), ("step_major", 2 * 24 + 1)])
def test_the_first_frame_comes_as_soon_as_it_is_final(window_order: str, needed: int) -> None:
    denoiser = make_denoiser(length=98, frames=6, overlap=2, steps=3)  # 24 windows
    assert len(denoiser.windows) == 24
    frames = denoiser.run(window_order)
    assert next(frames)[0] == 0
    assert len(calls(denoiser)) == needed


def test_nothing_is_computed_before_a_frame_is_asked_for() -> None:
    denoiser = make_denoiser(length=9, frames=4, overlap=1, steps=3)
    denoiser.run()
    assert calls(denoiser) == []


def test_progress_counts_every_call_of_the_engine() -> None:
    told: list[tuple[int, int]] = []
    denoiser = make_denoiser(length=9, frames=4, overlap=1, steps=3, progress=lambda *count: told.append(count))
    run(denoiser)
    assert told == [(done, 9) for done in range(1, 10)]
    assert len(calls(denoiser)) == 9


def test_an_exception_of_the_progress_callback_ends_the_work() -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    denoiser = make_denoiser(length=9, frames=4, overlap=1, steps=3, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        list(denoiser.run())
    assert len(calls(denoiser)) == 2


def test_an_engine_that_fails_is_heard() -> None:
    def fail(spec: EngineSpec, inputs: Arrays) -> dict[str, np.ndarray]:
        raise BackendError("engine denoiser failed: memory ran out")

    engine = FakeEngine(specs(4)["denoiser"], fail)
    with pytest.raises(BackendError, match="memory ran out"):
        list(make_denoiser(length=9, frames=4, overlap=1, steps=3, engines={"denoiser": engine}).run())


def test_a_latent_that_was_handed_out_may_be_written_to() -> None:
    denoiser = make_denoiser(length=12, frames=4, overlap=1, steps=3)
    expected = run(denoiser)
    for frame, latent in denoiser.run():
        np.testing.assert_array_equal(latent, expected[frame : frame + 1])
        latent[:] = np.nan
