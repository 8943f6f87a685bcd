"""Guidance: how the predictions of the two passes are combined, and which passes each step runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexpress_rt.diffusion.guidance import plan_guidance
from vexpress_rt.native.latent_step import guide

SCALES = st.floats(0, 10)
SHARES = st.floats(0, 1)
INTERVALS = st.tuples(SHARES, SHARES).filter(lambda pair: pair[0] < pair[1])


def drawn(steps: int, interval: tuple[float, float] = (0, 1), every: int = 1, scale: float = 2) -> str:
    """A letter a step: B both passes, r the conditional one with the kept prediction, - the conditional one alone."""
    letters, kept = "", False
    for part in plan_guidance(steps, scale, interval, every):
        letters += "B" if part.run_uncond else "r" if kept else "-"
        kept = part.cache_uncond
        assert part.engine == ("denoiser" if part.run_uncond else "denoiser_cond")
    assert not kept
    return letters


@given(st.floats(0, 100), st.integers(0, 100))
def test_guidance_extrapolates_from_unconditional_through_conditional(scale: float, seed: int) -> None:
    u, c = np.random.default_rng(seed).standard_normal((2, 3, 4)).astype(np.float32)
    guided = guide(u, c, scale)
    assert guided.dtype == np.float32
    np.testing.assert_allclose(guided, u + scale * (c.astype(np.float64) - u), rtol=1e-5, atol=1e-4)


def test_guidance_of_zero_is_the_unconditional_prediction() -> None:
    u, c = np.float32([1, 2]), np.float32([5, -3])
    assert np.array_equal(guide(u, c, 0), u)


@pytest.mark.parametrize(
    ("steps", "interval", "every", "expected"),
    [
        (1, (0, 1), 1, "B"),
        (5, (0, 1), 1, "BBBBB"),
        (5, (0, 1), 2, "BrBrB"),
        (7, (0, 1), 3, "BrrBrrB"),
        (5, (0, 1), 9, "Brrrr"),
        (4, (0.25, 0.75), 1, "-BB-"),
        (10, (0.2, 0.7), 2, "--BrBrB---"),
        (10, (0.35, 0.65), 1, "---BBBB---"),  # bounds on middles of steps count
        (50, (0, 0.29), 1, 15 * "B" + 35 * "-"),  # 0.29 * 50 is less than 14.5 by a rounding error
        (2, (0, 0.5), 1, "B-"),
        (2, (0.5, 1), 4, "-B"),
        (4, (0.4, 0.6), 1, "----"),
        (1, (0.2, 0.8), 1, "B"),
    ],
)
def test_steps_are_guided_whose_middle_lies_in_the_interval(
    steps: int, interval: tuple[float, float], every: int, expected: str
) -> None:
    assert drawn(steps, interval, every) == expected


@given(st.integers(1, 50), INTERVALS, st.integers(1, 9))
def test_guidance_of_at_most_one_is_none(steps: int, interval: tuple[float, float], every: int) -> None:
    for scale in (0, 0.5, 1):
        assert drawn(steps, interval, every, scale) == steps * "-"


@given(st.integers(1, 50), INTERVALS, st.integers(1, 9), st.floats(1.01, 9))
def test_reuse_changes_which_half_runs_and_not_what_is_guided(
    steps: int, interval: tuple[float, float], every: int, scale: float
) -> None:
    plan = drawn(steps, interval, every, scale)
    assert plan.replace("r", "B") == drawn(steps, interval, 1, scale)
    guided = plan.strip("-")
    assert "-" not in guided
    assert all((letter == "B") == (i % every == 0) for i, letter in enumerate(guided))
