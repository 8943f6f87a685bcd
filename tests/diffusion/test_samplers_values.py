"""DPM-Solver++(2M) and UniPC against the states that diffusers computes (scripts/sampler_values.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vexpress_rt.diffusion.noise_schedule import alphas_cumprod
from vexpress_rt.diffusion.samplers import dpm_solver_2m, make_sampler, unipc
from vexpress_rt.native.latent_step import Coefficients, take_step

VALUES = dict(np.load(Path(__file__).parents[1] / "golden" / "sampler_values.npz"))
ALPHAS = alphas_cumprod(1000, 0.00085, 0.012)
TABLES = {"dpm++2m": dpm_solver_2m, "unipc": unipc}
COUNTS = range(1, 26)

each_sampler = pytest.mark.parametrize("name", TABLES)
each_count = pytest.mark.parametrize("steps", COUNTS)


def rows(key: str, steps: int) -> NDArray[np.generic]:
    """Return the rows of an array of `VALUES` that belong to the run of `steps` steps; shorter runs come before."""
    first = steps * (steps - 1) // 2
    return VALUES[key][first : first + steps]


def alpha_bars(steps: int) -> list[float]:
    """Return diffusers' noise levels of a run, ending with 1; the first is 2 ** -24 in the place of 0."""
    return [*rows("alpha_bars", steps).astype(np.float64).tolist(), 1.0]


def states(
    tables: Sequence[Coefficients],
    dtype: type[np.floating],
    step: Callable[[list[NDArray[np.floating]], NDArray[np.floating], Coefficients], list[NDArray[np.floating]]],
) -> NDArray[np.floating]:
    """Return the latent after each step, (steps, 4); memory that no step has written yet is not a number."""
    noise = VALUES["noise"].astype(dtype)
    vectors, result = [noise] + [np.full_like(noise, math.nan)] * (len(tables[0]) - 1), []
    for table, output in zip(tables, VALUES["model_outputs"].astype(dtype), strict=False):
        vectors = step(vectors, output, table)
        result.append(vectors[0])
    return np.array(result)


def step_in_float64(
    vectors: list[NDArray[np.floating]], v: NDArray[np.floating], table: Coefficients
) -> list[NDArray[np.floating]]:
    """Do what `take_step` does, without rounding to float32."""
    return [sum(c * term for c, term in zip(row, [*vectors, v], strict=True) if c != 0) for row in table]


def test_the_values_hold_runs_of_1_to_25_steps_and_say_what_made_them() -> None:
    for name in TABLES:
        for precision in ("float32", "float64", "zero_snr"):
            assert VALUES[f"{name}/{precision}_states"].shape == (sum(COUNTS), 4)
    report = str(VALUES["report"])
    assert "diffusers 0.42.1: DPMSolverMultistepScheduler, UniPCMultistepScheduler" in report
    assert "torch 2.13.0" in report


@each_count
def test_diffusers_visits_the_same_timesteps_and_noise_levels(steps: int) -> None:
    sampler = make_sampler("unipc", steps, ALPHAS)
    assert list(sampler.timesteps) == rows("timesteps", steps).tolist()
    assert alpha_bars(steps)[0] == 2**-24
    # Both round the rescaled betas to float32, where alpha-bar is a product of up to 1000 of them.
    np.testing.assert_allclose(sampler.alpha_bars[1:], alpha_bars(steps)[1:], rtol=2e-6, atol=0)


@each_sampler
@each_count
def test_in_float64_from_its_noise_levels_every_state_is_that_of_diffusers(name: str, steps: int) -> None:
    found = states(TABLES[name](alpha_bars(steps)), np.float64, step_in_float64)
    # States are at most 2.2, so this is 5000 roundings of float64; the difference found is 9e-15.
    np.testing.assert_allclose(found, rows(f"{name}/float64_states", steps), rtol=0, atol=1e-12)


@each_sampler
@each_count
def test_in_float32_from_its_noise_levels_every_state_is_that_of_diffusers(name: str, steps: int) -> None:
    found = states(TABLES[name](alpha_bars(steps)), np.float32, take_step)
    # diffusers also computes lambda and the corrector's weights in float32: 3.5e-6 from its own states in float64.
    np.testing.assert_allclose(found, rows(f"{name}/float32_states", steps), rtol=0, atol=5e-6)


@each_sampler
@each_count
def test_zero_terminal_snr_is_the_limit_of_diffusers_for_a_falling_first_alpha_bar(name: str, steps: int) -> None:
    found = states(TABLES[name]([0.0, *alpha_bars(steps)[1:]]), np.float64, step_in_float64)
    # The extrapolation to 0 has an error of 8e-13.
    np.testing.assert_allclose(found, rows(f"{name}/zero_snr_states", steps), rtol=0, atol=1e-11)


@each_sampler
@each_count
def test_our_sampler_as_it_is_used_gives_the_states_of_diffusers(name: str, steps: int) -> None:
    found = states(make_sampler(name, steps, ALPHAS).coefficients, np.float32, take_step)
    # float32 states, and alpha-bars that differ by up to 1.1e-6 of their value: 4.3e-6 altogether.
    np.testing.assert_allclose(found, rows(f"{name}/zero_snr_states", steps), rtol=0, atol=1e-5)


@each_sampler
@each_count
def test_the_values_tell_zero_terminal_snr_from_the_alpha_bar_that_diffusers_puts_there(name: str, steps: int) -> None:
    """Check that the tolerances above, 1e-5 at most, see what 2 ** -24 in the place of 0 changes."""
    difference = np.abs(rows(f"{name}/float64_states", steps) - rows(f"{name}/zero_snr_states", steps)).max()
    assert 1e-4 < difference < 0.05
