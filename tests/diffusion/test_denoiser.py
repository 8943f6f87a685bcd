"""Denoising: the wavefront against a plain loop, what the engine is given, and what is alive at a time."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles.fakes import SMALL, FakeEngine, fake_specs, predict
from vexpress_rt.bundle.engine_spec import EngineSpec, VideoShape
from vexpress_rt.config import SAMPLERS, SCHEDULES
from vexpress_rt.diffusion.context_windows import Window, plan_windows
from vexpress_rt.diffusion.denoiser import Denoiser, Guidance
from vexpress_rt.diffusion.latents import Flight, HostLatents, Latents
from vexpress_rt.diffusion.noise import frame_noise
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod
from vexpress_rt.diffusion.samplers import Sampler, ddim, make_sampler
from vexpress_rt.errors import BackendError
from vexpress_rt.native.latent_step import take_step

LATENT = (SMALL.latent_channels, 2, 2)
Arrays = Mapping[str, np.ndarray]
ALPHAS = alphas_cumprod(SMALL.train_timesteps, SMALL.beta_start, SMALL.beta_end)


@cache
def specs(frames: int) -> dict[str, EngineSpec]:
    return fake_specs(SMALL, VideoShape(16, 16, frames))


@cache
def static_inputs(frames: int) -> dict[str, np.ndarray]:
    """Reference keys and values."""
    rng = np.random.default_rng(3)
    tensors = [t for t in specs(frames)["denoiser"].inputs if t.name.startswith("reference_") and "/" in t.name]
    return {t.name: rng.standard_normal(t.shape).astype(t.dtype) for t in tensors}


def window_inputs(window: Window) -> dict[str, np.ndarray]:
    """Tokens and pose features that depend on the frame."""
    shapes = {t.name: t.shape for t in specs(window.stop - window.start)["denoiser"].inputs}
    frames = range(window.start, window.stop)
    return {
        name: np.stack([frame_noise(seed, frame, shapes[name][1:]) for frame in frames])
        for seed, name in enumerate(["audio_tokens", "pose_feature"])
    }


def noise(frame: int) -> np.ndarray:
    return frame_noise(42, frame, LATENT)


def make_denoiser(
    length: int, frames: int, overlap: int, steps: int, guidance: Guidance | None = None, **changes: Any
) -> Denoiser:
    guidance = guidance or Guidance(3.5, 0.95, 3.0)
    values = {
        "engines": {name: FakeEngine(specs(frames)[name], predict) for name in guidance.engines(steps)},
        "static": static_inputs(frames),
        "guidance": guidance,
        "sampler": ddim(steps, ALPHAS),
        "windows": plan_windows(length, frames, overlap),
        "length": length,
        "noise": noise,
        "conditions": window_inputs,
    }
    return Denoiser(**(values | changes))


def calls(denoiser: Denoiser) -> list[dict[str, np.ndarray]]:
    """What its only engine was given so far."""
    (engine,) = denoiser.engines.values()
    return engine.calls  # type: ignore[attr-defined, no-any-return]


def run(denoiser: Denoiser, schedule: str = "wavefront") -> np.ndarray:
    frames, latents = zip(*denoiser.run(schedule), strict=True)
    assert frames == tuple(range(denoiser.length))
    return np.concatenate(latents)


def plain_loop(length: int, frames: int, overlap: int, sampler: Sampler, guidance: Guidance) -> np.ndarray:
    """Steps over all windows, in the public implementation's order, for the whole video at once."""
    total = max(length, frames)
    windows = plan_windows(length, frames, overlap)
    weights = {
        "reference_attention_weight": np.array([guidance.reference_weight], np.float32),
        "audio_attention_weight": np.array([guidance.audio_weight], np.float32),
    }
    vectors = [np.stack([noise(frame) for frame in range(total)])]
    vectors += [np.full_like(vectors[0], np.nan)] * (sampler.vectors - 1)
    covered = np.zeros((total, 1, 1, 1), np.float32)
    for window in windows:
        covered[window.start : window.stop] += 1
    low, high = guidance.interval
    guided_steps, held = 0, dict[int, np.ndarray]()
    for step, (timestep, coefficients) in enumerate(zip(sampler.timesteps, sampler.coefficients, strict=True)):
        x = vectors[0]
        prediction = np.zeros_like(x)
        guides = guidance.scale > 1 and low <= (step + 0.5) / len(sampler) <= high
        for window in windows:
            part = slice(window.start, window.stop)
            time = np.array([timestep], np.float32)
            inputs = {**static_inputs(frames), **window_inputs(window), **weights, "latents": x[part], "timestep": time}
            both = predict(specs(frames)["denoiser"], inputs)
            guided = both["conditional"]
            if guides:
                if guided_steps % guidance.every == 0:
                    held[window.index] = both["unconditional"]
                guided = held[window.index] + np.float32(guidance.scale) * (guided - held[window.index])
            prediction[part] += guided / covered[part]
        guided_steps += guides
        vectors = take_step(vectors, prediction, coefficients)
    return vectors[0][:length]


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int]:
    """(length, frames, overlap): windows that overlap by anything from nothing to all frames but one."""
    frames = draw(st.integers(1, 6))
    overlap = draw(st.integers(0, frames - 1))
    windows = draw(st.integers(1, 5))
    length = frames + (windows - 1) * (frames - overlap) - draw(st.integers(0, frames - overlap))
    return max(length, 1), frames, overlap


GUIDANCES = st.builds(
    Guidance,
    scale=st.sampled_from([0.0, 1.0, 1.5, 3.5]),
    reference_weight=st.just(0.95),
    audio_weight=st.just(3.0),
    interval=st.sampled_from([(0, 1), (0.25, 1), (0, 0.75), (0.2, 0.6), (0.4, 0.41)]),
    every=st.integers(1, 4),
)


@given(plans(), st.integers(1, 6), st.sampled_from(SAMPLERS), GUIDANCES)
def test_every_sampler_and_guidance_gives_a_plain_loops_numbers_bit_for_bit_in_either_order(
    plan: tuple[int, int, int], steps: int, name: str, guidance: Guidance
) -> None:
    sampler = make_sampler(name, steps, ALPHAS)
    expected = plain_loop(*plan, sampler, guidance)
    for order in SCHEDULES:
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
    run(denoiser, "breadth")
    given = calls(denoiser)
    assert [float(call["timestep"][0]) for call in given] == [999, 999, 666, 666, 332, 332]
    assert {float(call["reference_attention_weight"][0]) for call in given} == {0.5}
    assert {float(call["audio_attention_weight"][0]) for call in given} == {1.25}


def test_every_call_gets_the_portraits_features_and_its_windows_conditions() -> None:
    denoiser = make_denoiser(length=6, frames=4, overlap=2, steps=2)
    run(denoiser, "breadth")
    for call, window in zip(calls(denoiser), denoiser.windows * 2, strict=True):  # type: ignore[operator]
        for name, expected in {**static_inputs(4), **window_inputs(window)}.items():
            np.testing.assert_array_equal(call[name], expected)


def counting(function: Callable[[Any], Any]) -> tuple[Callable[[Any], Any], Counter[Any]]:
    counts: Counter[Any] = Counter()

    def counted(argument: Any) -> Any:
        counts[argument] += 1
        return function(argument)

    return counted, counts


@pytest.mark.parametrize("schedule", ["wavefront", "breadth"])
def test_noise_is_asked_once_a_frame_and_conditions_once_a_window(schedule: str) -> None:
    noises, frames = counting(noise)
    conditions, windows = counting(window_inputs)
    denoiser = make_denoiser(length=23, frames=6, overlap=4, steps=4, noise=noises, conditions=conditions)
    run(denoiser, schedule)
    assert frames == Counter(range(23))
    assert windows == Counter(denoiser.windows)


def test_surplus_frames_of_a_short_video_are_denoised_and_dropped() -> None:
    noises, frames = counting(noise)
    latents = run(make_denoiser(length=3, frames=6, overlap=4, steps=2, noise=noises))
    assert latents.shape == (3, *LATENT)
    assert frames == Counter(range(6))


class Conditions(dict[str, Any]):
    """A dict whose end can be watched."""


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


@pytest.mark.parametrize(("schedule", "most"), [("wavefront", 6 + 3 * 4), ("breadth", 120)])
def test_only_in_breadth_order_frames_in_flight_grow_with_the_video(schedule: str, most: int) -> None:
    slots = []

    def latents(flight: Flight, shape: tuple[int, ...], vectors: int) -> Latents:
        slots.append(flight.slots)
        return HostLatents(flight, shape, vectors)

    run(make_denoiser(length=120, frames=6, overlap=2, steps=3, latents=latents), schedule)
    assert slots[0] <= most


@pytest.mark.parametrize(("schedule", "needed"), [("wavefront", 6), ("breadth", 2 * 24 + 1)])
def test_the_first_frame_comes_as_soon_as_it_is_final(schedule: str, needed: int) -> None:
    denoiser = make_denoiser(length=98, frames=6, overlap=2, steps=3)  # 24 windows
    assert len(denoiser.windows) == 24
    frames = denoiser.run(schedule)
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
