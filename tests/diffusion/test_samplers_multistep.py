"""DPM-Solver++(2M) and UniPC: their papers' formulas, orders of convergence, and first and last steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.sampler_runs import ALPHAS, Model, follow
from vexpress_rt.diffusion.samplers import ddim_coefficients, dpm_solver_2m, make_sampler, unipc
from vexpress_rt.native.latent_step import Coefficients

MULTISTEP = [dpm_solver_2m, unipc]
Tables = Callable[[Sequence[float]], tuple[Coefficients, ...]]


def one_steps(levels: Sequence[float]) -> tuple[Coefficients, ...]:
    """DDIM between neighbouring levels."""
    return tuple((ddim_coefficients(*pair),) for pair in pairwise(levels))


# The papers' formulas, written down with lambda and exponentials


def reference_2m(levels: Sequence[float], model: Model, x: float) -> list[float]:
    """arXiv 2211.01095, algorithm 2, for finite lambda."""
    alpha, sigma = np.sqrt(levels), np.sqrt(1 - np.asarray(levels))
    lam = np.log(alpha) - np.log(sigma)
    seen, pictures = [x], []
    for i in range(1, len(levels)):
        h = lam[i] - lam[i - 1]
        pictures.append(alpha[i - 1] * seen[-1] - sigma[i - 1] * model(seen[-1], levels[i - 1]))
        d = pictures[-1]
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            d = (1 + 1 / (2 * r)) * pictures[-1] - 1 / (2 * r) * pictures[-2]
        seen.append(sigma[i] / sigma[i - 1] * seen[-1] - alpha[i] * (math.exp(-h) - 1) * d)
    return seen


def reference_unipc(levels: Sequence[float], model: Model, x: float) -> list[float]:
    """arXiv 2302.04867, the data prediction's multistep predictor and corrector of order 2, for finite lambda.

    The corrector's weights come from what they are for: with three points, e^lambda is integrated exactly against 1,
    lambda and lambda^2, whatever B(h) is.
    """
    alpha, sigma = np.sqrt(levels), np.sqrt(1 - np.asarray(levels))
    lam = np.log(alpha) - np.log(sigma)
    pictures: list[float] = []
    seen, corrected = [x], x
    for i in range(1, len(levels)):
        m = alpha[i - 1] * seen[-1] - sigma[i - 1] * model(seen[-1], levels[i - 1])
        if pictures:
            h = lam[i - 1] - lam[i - 2]
            weights = [-0.5 * math.expm1(-h)] * 2
            nodes = [lam[i - 2], lam[i - 1]]
            if len(pictures) > 1:
                nodes = [lam[i - 3], *nodes]
                moments = [exponential_moment(power, h) for power in range(3)]
                powers = np.vander(np.array(nodes) - lam[i - 2], 3, increasing=True).T
                weights = np.linalg.solve(powers, moments).tolist()
            known = [*pictures[-2:], m][-len(nodes) :]
            corrected = sigma[i - 1] / sigma[i - 2] * corrected + alpha[i - 1] * float(np.dot(weights, known))
        h, d = lam[i] - lam[i - 1], m
        if pictures:
            d = m + 0.5 * h / (lam[i - 1] - lam[i - 2]) * (m - pictures[-1])
        pictures.append(m)
        seen.append(sigma[i] / sigma[i - 1] * corrected - alpha[i] * math.expm1(-h) * d)
    return seen


def exponential_moment(power: int, h: float) -> float:
    """The integral of e^(s - h) s^power for s from 0 to h, by Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    s = h / 2 * (nodes + 1)
    return float(h / 2 * np.sum(weights * np.exp(s - h) * s**power))


@settings(max_examples=50)
@given(
    st.lists(st.floats(0.02, 0.98), min_size=2, max_size=9, unique_by=lambda level: round(level, 2)).map(sorted),
    st.sampled_from([(dpm_solver_2m, reference_2m), (unipc, reference_unipc)]),
)
def test_tables_do_what_the_papers_say(levels: list[float], pair: tuple[Tables, Callable[..., list[float]]]) -> None:
    tables, reference = pair

    def model(x: float, level: float) -> float:
        return math.sin(3 * x + level) - level

    np.testing.assert_allclose(
        follow(tables(levels), levels, model, 0.8), reference(levels, model, 0.8), rtol=1e-9, atol=1e-9
    )


# The order of convergence, on data whose probability flow is known

MEAN, SPREAD = 0.4, 0.3  # of Gaussian data, whose flow keeps each sample's distance from the mean in spreads


def spread(level: float) -> float:
    """Return the standard deviation of the noisy data."""
    return math.sqrt(level * SPREAD**2 + 1 - level)


def gaussian(x: float, level: float) -> float:
    """The exact v: of m = E[picture | x], in closed form."""
    alpha, sigma = math.sqrt(level), math.sqrt(1 - level)
    z = (x - alpha * MEAN) / spread(level)
    picture = MEAN + alpha * SPREAD**2 / spread(level) * z
    return (alpha * x - picture) / sigma


def solution(level: float, z: float) -> float:
    """Return x at a noise level."""
    return math.sqrt(level) * MEAN + spread(level) * z


def levels_between(first: float, last: float, steps: int) -> list[float]:
    """Return noise levels with evenly spaced lambdas."""
    ends = [0.5 * math.log(level / (1 - level)) for level in (first, last)]
    return [1 / (1 + math.exp(-2 * value)) for value in np.linspace(*ends, steps + 1)]


def order(tables: Tables, steps: int) -> float:
    """Return the order of convergence: with twice as many steps, the final error falls by 2 ** -order."""
    errors = []
    for count in (steps, 2 * steps):
        levels = levels_between(0.01, 0.99, count)
        found = follow(tables(levels), levels, gaussian, solution(levels[0], 1.5))[-1]
        errors.append(abs(found - solution(levels[-1], 1.5)))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("steps", [40, 80, 160])
def test_the_order_of_convergence_is_that_of_the_method(steps: int) -> None:
    assert order(one_steps, steps) == pytest.approx(1, abs=0.15)
    assert order(dpm_solver_2m, steps) == pytest.approx(2, abs=0.2)
    assert order(unipc, steps) > 2.7  # the corrector of order 2 gains one


# Both ends


@pytest.mark.parametrize("tables", MULTISTEP)
def test_from_zero_signal_the_first_step_is_ddims(tables: Tables) -> None:
    for levels in ([0.0, 0.3, 0.9], [0.0, 1.0], list(make_sampler("unipc", 4, ALPHAS).alpha_bars)):
        first = follow(tables(levels), levels, gaussian, 1.2)[1]
        assert first == pytest.approx(follow(one_steps(levels), levels, gaussian, 1.2)[1], abs=1e-12)


@pytest.mark.parametrize("tables", MULTISTEP)
def test_zero_signal_is_the_limit_of_little_signal(tables: Tables) -> None:
    runs = []
    for first in (0.0, 1e-300, 1e-30):
        levels = [first, 0.05, 0.2, 0.5, 0.8, 0.97]
        runs.append(np.array(follow(tables(levels), levels, gaussian, 1.2)))
    near, far = (np.abs(run - runs[0]).max() for run in runs[1:])
    assert 0 < near < 0.002
    assert near < far / 5  # slopes from there fall as 1 / lambda does


@pytest.mark.parametrize("tables", [one_steps, *MULTISTEP])
@pytest.mark.parametrize("levels", [[0.0, 1.0], [0.0, 0.4, 1.0], [0.0, 0.2, 0.6, 1.0]])
def test_the_last_step_ends_on_the_picture_that_it_predicts(tables: Tables, levels: list[float]) -> None:
    seen = follow(tables(levels), levels, gaussian, 1.2)
    level, x = levels[-2], seen[-2]
    assert seen[-1] == pytest.approx(math.sqrt(level) * x - math.sqrt(1 - level) * gaussian(x, level), abs=1e-12)


@pytest.mark.parametrize("name", ["dpm++2m", "unipc"])
@pytest.mark.parametrize("steps", [6, 10, 25])
def test_over_trailing_timesteps_from_zero_signal_they_come_nearer_than_ddim(name: str, steps: int) -> None:
    sampler = make_sampler(name, steps, ALPHAS)
    levels = sampler.alpha_bars[:-1]  # the last step is of first order in all of them

    def error(tables: Sequence[Coefficients]) -> float:
        return abs(follow(tables, levels, gaussian, 1.5)[-1] - solution(levels[-1], 1.5))

    assert error(sampler.coefficients[:-1]) < 0.6 * error(one_steps(levels))


@pytest.mark.parametrize("tables", MULTISTEP)
@pytest.mark.parametrize("levels", [[0.2, 0.2, 0.5], [0.2, 0.5, 0.5, 0.8], [0.0, 0.5, 0.5, 0.5, 1.0]])
def test_levels_that_are_equal_do_no_harm(tables: Tables, levels: list[float]) -> None:
    seen = follow(tables(levels), levels, gaussian, 1.2)
    assert np.isfinite(seen).all()
    for (level, following), (x, then) in zip(pairwise(levels), pairwise(seen), strict=True):
        if tables is dpm_solver_2m and level == following:
            assert then == pytest.approx(x)
