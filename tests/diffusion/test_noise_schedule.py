"""The noise schedule and the timesteps against the public implementation's numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import GOLDEN
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod, trailing_timesteps
from vexpress_rt.errors import ConfigError

VALUES = np.load(GOLDEN / "scheduler.npz")
ALPHAS = alphas_cumprod(1000, 0.00085, 0.012)


def test_alpha_bars_are_the_golden_ones() -> None:
    golden = VALUES["alphas_cumprod"]
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
    assert timesteps.tolist() == VALUES[f"timesteps_{steps}"].tolist()


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
        trailing_timesteps(steps, 1000)
