"""The DDIM sampler against the public implementation's numbers, and its own algebra."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vexpress_rt.errors import ConfigError
from vexpress_rt.schedule import (
    alphas_cumprod,
    ddim,
    ddim_coefficients,
    ddim_step,
    guide,
    trailing_timesteps,
)

GOLDEN = np.load(Path(__file__).parent / "golden" / "scheduler.npz")
ALPHAS = alphas_cumprod(1000, 0.00085, 0.012)


def test_alpha_bars_are_the_golden_ones() -> None:
    golden = GOLDEN["alphas_cumprod"]
    assert ALPHAS.dtype == np.float32
    assert ALPHAS.shape == (1000,)
    np.testing.assert_allclose(ALPHAS, golden, rtol=5e-6, atol=4e-7)


def test_alpha_bars_keep_their_first_value_and_end_at_exactly_zero() -> None:
    assert ALPHAS[0] == np.float32(0.99915)
    assert ALPHAS[-1] == 0
    assert (np.diff(ALPHAS) < 0).all()


@given(st.integers(2, 1500), st.floats(1e-5, 0.01), st.floats(0.0101, 0.05))
def test_alpha_bars_fall_from_one_to_zero_for_any_betas(count: int, start: float, end: float) -> None:
    alphas = alphas_cumprod(count, start, end)
    assert np.isfinite(alphas).all()
    assert (np.diff(alphas) <= 0).all()
    assert alphas[-1] == 0
    assert alphas[0] == pytest.approx(1 - start, abs=1e-6)


@pytest.mark.parametrize(("count", "start", "end"), [(1, 0.001, 0.01), (10, 0, 0.01), (10, 0.02, 0.01), (10, 0.1, 1)])
def test_impossible_noise_schedules_are_refused(count: int, start: float, end: float) -> None:
    with pytest.raises(ConfigError, match=f"{count} timesteps with betas from {start} to {end}"):
        alphas_cumprod(count, start, end)


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 8, 10, 12, 25, 30, 50])
def test_timesteps_are_the_golden_ones(steps: int) -> None:
    timesteps = trailing_timesteps(steps, 1000)
    assert timesteps.dtype == np.int64
    assert timesteps.tolist() == GOLDEN[f"timesteps_{steps}"].tolist()


@given(st.data(), st.integers(1, 3000))
def test_timesteps_are_exact_quotients_rounded_half_to_even(data: st.DataObject, train_timesteps: int) -> None:
    steps = data.draw(st.integers(1, train_timesteps))
    exact = [round(train_timesteps - Fraction(k * train_timesteps, steps)) - 1 for k in range(steps)]
    assert trailing_timesteps(steps, train_timesteps).tolist() == exact


def test_as_many_steps_as_timesteps_visit_each_once() -> None:
    assert trailing_timesteps(1000, 1000).tolist() == list(range(999, -1, -1))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_step_counts_outside_the_training_range_are_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"steps is {steps}; expected 1 to 1000"):
        ddim(steps, ALPHAS)


@pytest.mark.parametrize("steps", [7, 8])
def test_a_run_follows_the_golden_samples(steps: int) -> None:
    sampler = ddim(steps, ALPHAS)
    samples = GOLDEN[f"ddim{steps}_samples"]
    x = samples[0]
    for index in range(len(sampler)):
        x = ddim_step(x, GOLDEN[f"ddim{steps}_model_outputs"][index], sampler.coefficients[index])
        np.testing.assert_allclose(x, samples[index + 1], rtol=0, atol=2e-6)


@settings(max_examples=25)
@given(st.integers(1, 1000))
def test_with_the_true_prediction_a_step_lands_on_the_previous_noise_level(steps: int) -> None:
    signal, noise = np.float32(0.7), np.float32(-1.3)
    sampler = ddim(steps, ALPHAS)
    for index, timestep in enumerate(sampler.timesteps):
        alpha = float(ALPHAS[timestep])
        previous = timestep - 1000 // steps
        target = float(ALPHAS[previous]) if previous >= 0 else 1.0
        x = np.float32(alpha**0.5 * signal + (1 - alpha) ** 0.5 * noise)
        v = np.float32(alpha**0.5 * noise - (1 - alpha) ** 0.5 * signal)
        expected = target**0.5 * signal + (1 - target) ** 0.5 * noise
        assert ddim_step(x, v, sampler.coefficients[index]) == pytest.approx(expected, abs=1e-6)


def test_the_step_past_timestep_zero_gives_the_predicted_picture() -> None:
    # 8 steps end at 124, whose previous timestep 124 - 125 lies before the first: alpha-bar 1 there.
    a, b = ddim_coefficients(124, 8, ALPHAS)
    assert a == pytest.approx(float(ALPHAS[124]) ** 0.5)
    assert b == pytest.approx(-((1 - float(ALPHAS[124])) ** 0.5))


def test_at_zero_terminal_signal_the_picture_comes_from_the_prediction_alone() -> None:
    a, b = ddim_coefficients(999, 25, ALPHAS)
    assert a == pytest.approx((1 - float(ALPHAS[959])) ** 0.5)
    assert b == pytest.approx(-(float(ALPHAS[959]) ** 0.5))


def test_a_step_keeps_shape_and_float32() -> None:
    x = np.ones((2, 4, 3, 3), np.float32)
    out = ddim_step(x, 2 * x, (0.5, 0.25))
    assert out.dtype == np.float32
    assert np.array_equal(out, x)


@given(st.floats(0, 100), st.integers(0, 100))
def test_guidance_extrapolates_from_unconditional_through_conditional(scale: float, seed: int) -> None:
    u, c = np.random.default_rng(seed).standard_normal((2, 3, 4)).astype(np.float32)
    guided = guide(u, c, scale)
    assert guided.dtype == np.float32
    np.testing.assert_allclose(guided, u + scale * (c.astype(np.float64) - u), rtol=1e-5, atol=1e-4)


def test_guidance_of_zero_is_the_unconditional_prediction() -> None:
    u, c = np.float32([1, 2]), np.float32([5, -3])
    assert np.array_equal(guide(u, c, 0), u)
