"""The samplers: DDIM against the public implementation's values, the others against their papers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paths import GOLDEN
from tests.support.sampler_runs import ALPHAS, follow
from vexpress_rt.config import SAMPLERS
from vexpress_rt.diffusion.samplers import ddim, make_sampler
from vexpress_rt.errors import ConfigError
from vexpress_rt.native.latent_step import take_step

VALUES = np.load(GOLDEN / "scheduler.npz")


# DDIM


@pytest.mark.parametrize("steps", [7, 8])
def test_a_run_follows_the_golden_samples(steps: int) -> None:
    sampler = ddim(steps, ALPHAS)
    samples = VALUES[f"ddim{steps}_samples"]
    x = samples[0]
    for index in range(len(sampler)):
        (x,) = take_step([x], VALUES[f"ddim{steps}_model_outputs"][index], sampler.coefficients[index])
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
        (found,) = take_step([x], v, sampler.coefficients[index])
        assert found == pytest.approx(target**0.5 * signal + (1 - target) ** 0.5 * noise, abs=1e-6)


def test_the_step_past_timestep_zero_gives_the_predicted_picture() -> None:
    # 8 steps end at 124, whose previous timestep 124 - 125 lies before the first: alpha-bar 1 there.
    ((a, b),) = ddim(8, ALPHAS).coefficients[-1]
    assert a == pytest.approx(float(ALPHAS[124]) ** 0.5)
    assert b == pytest.approx(-((1 - float(ALPHAS[124])) ** 0.5))


def test_at_zero_terminal_signal_the_picture_comes_from_the_prediction_alone() -> None:
    ((a, b),) = ddim(25, ALPHAS).coefficients[0]
    assert a == pytest.approx((1 - float(ALPHAS[959])) ** 0.5)
    assert b == pytest.approx(-(float(ALPHAS[959]) ** 0.5))


# What all of them have in common


@pytest.mark.parametrize("steps", [0, -1, 1001])
@pytest.mark.parametrize("name", SAMPLERS)
def test_step_counts_outside_the_training_range_are_refused(name: str, steps: int) -> None:
    with pytest.raises(ConfigError, match=f"steps is {steps}; expected 1 to 1000"):
        make_sampler(name, steps, ALPHAS)


def test_a_sampler_of_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampler is 'euler'; expected one of ddim, dpm\+\+2m, unipc"):
        make_sampler("euler", 4, ALPHAS)


@settings(max_examples=30)
@given(st.sampled_from(SAMPLERS), st.integers(1, 1000))
def test_noise_levels_are_those_of_the_timesteps_and_rise_from_noise_to_picture(name: str, steps: int) -> None:
    sampler = make_sampler(name, steps, ALPHAS)
    assert len(sampler) == steps == len(sampler.coefficients) == len(sampler.alpha_bars) - 1
    assert sampler.alpha_bars[:-1] == tuple(float(ALPHAS[t]) for t in sampler.timesteps)
    assert sampler.alpha_bars[0] == 0
    assert all(level < following for level, following in pairwise(sampler.alpha_bars))
    assert sampler.alpha_bars[-1] == 1 or name == "ddim"
    assert all(np.shape(table) == (sampler.state_size, sampler.state_size + 1) for table in sampler.coefficients)
    assert np.isfinite(np.concatenate([np.ravel(table) for table in sampler.coefficients])).all()


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 200])
def test_ddim_ends_on_the_picture_where_the_steps_divide_the_timesteps(steps: int) -> None:
    assert ddim(steps, ALPHAS).alpha_bars[-1] == 1


def test_ddim_ends_where_the_public_code_does_when_they_do_not() -> None:
    assert ddim(6, ALPHAS).alpha_bars[-1] == float(ALPHAS[0])  # timestep 166 - 1000 // 6


@settings(max_examples=40)
@given(st.sampled_from(SAMPLERS), st.sampled_from([1, 2, 4, 5, 8, 10, 20, 25, 40, 50]))
def test_a_model_that_knows_the_picture_is_followed_to_it(name: str, steps: int) -> None:
    picture, noise = 0.7, -1.3
    sampler = make_sampler(name, steps, ALPHAS)
    levels = sampler.alpha_bars

    def model(x: float, level: float) -> float:
        return level**0.5 * noise - (1 - level) ** 0.5 * picture

    seen = follow(sampler.coefficients, levels, model, noise)
    expected = [level**0.5 * picture + (1 - level) ** 0.5 * noise for level in levels]
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-9)


def test_state_keeps_shape_and_float32() -> None:
    x, v = np.ones((2, 4, 3, 3), np.float32), np.full((2, 4, 3, 3), 2, np.float32)
    out, held = take_step([x, 4 * x], v, ((0.5, 1, 0.25), (0, 0, 1)))
    assert out.dtype == held.dtype == np.float32
    assert np.array_equal(out, 5 * x)
    assert np.array_equal(held, v)


def test_what_is_remembered_is_not_looked_at_where_its_number_is_nought() -> None:
    x, held = np.float32([3]), np.float32([np.nan])
    for sampler in (make_sampler(name, 3, ALPHAS) for name in SAMPLERS):
        state = take_step([x, *[held] * (sampler.state_size - 1)], x, sampler.coefficients[0])
        assert np.isfinite(state).all()
