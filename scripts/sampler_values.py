"""Compute the states of DPM-Solver++(2M) and UniPC with diffusers, as expected values for the tests.

    python -m venv /tmp/diffusers && /tmp/diffusers/bin/pip install diffusers torch
    /tmp/diffusers/bin/python scripts/sampler_values.py tests/golden/sampler_values.npz

Nothing of this project is imported. Each sampler takes 1 to 25 trailing steps through one seeded sequence of model
outputs (v-predictions that do not depend on the state). Arrays of 325 rows have one row for each step: the run
of 1 step first, then the run of 2 steps, and so on:

    noise                 (4,) float64, the state before the first step of every run
    model_outputs         (25, 4) float64, one row a step
    timesteps             (325,) int64
    alpha_bars            (325,) float32, at those timesteps; diffusers replaces 0, at the first one, by 2 ** -24
    NAME/float32_states   (325, 4) float32, by the unchanged scheduler; NAME is dpm++2m or unipc
    NAME/float64_states   (325, 4) float64, by the same code in float64, from the same alpha_bars
    NAME/zero_snr_states  (325, 4) float64, for alpha-bar 0 at the first timestep
    report                text, the output of this script: versions, settings, errors

diffusers cannot compute with alpha-bar 0, where lambda = ln(alpha / sigma) is minus infinity. The states are analytic
in 1 / (lambda_1 - lambda_0), so the script computes them for alpha-bars of 1e-100 to 1e-300 in float64 and extrapolates
by a polynomial to 0. The difference to the extrapolation without the last point is printed as the error.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import diffusers
import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from numpy.typing import NDArray

COUNTS = range(1, 26)
SEED = 20260601
NEAR_ZERO = 10.0 ** -np.arange(100, 301, 40)  # alpha-bars

# The model's schedule and prediction; order 2, of first order in the last step, which ends at sigma 0.
COMMON = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "rescale_betas_zero_snr": True,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "solver_order": 2,
    "lower_order_final": True,
    "final_sigmas_type": "zero",
}
SETTINGS = {
    "dpm++2m": COMMON | {"algorithm_type": "dpmsolver++", "solver_type": "midpoint", "euler_at_final": False},
    "unipc": COMMON | {"predict_x0": True, "solver_type": "bh2", "disable_corrector": []},
}
CLASSES = {"dpm++2m": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}

Float64 = NDArray[np.float64]
Scheduler = DPMSolverMultistepScheduler | UniPCMultistepScheduler


def scheduler_of(name: str, steps: int) -> Scheduler:
    """Return a scheduler that is about to take the first of `steps` steps."""
    scheduler = CLASSES[name](**SETTINGS[name])
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps
    return scheduler


def run(scheduler: Scheduler, noise: Float64, outputs: Float64, dtype: torch.dtype) -> list[NDArray[np.floating]]:
    """Return the state after each step, each of the shape of `noise`."""
    x, states = torch.from_numpy(noise).to(dtype)[None], []
    for timestep, output in zip(scheduler.timesteps, torch.from_numpy(outputs).to(dtype), strict=False):
        x = scheduler.step(output[None], timestep, x).prev_sample
        assert x.dtype == dtype
        states.append(x[0].numpy())
    return states


def run_in_float64(name: str, alpha_bars: Float64, noise: Float64, outputs: Float64) -> Float64:
    """Return the states (steps, 4) of a run in float64 whose noise levels are `alpha_bars`, one a step, then 1.

    DPM-Solver++ casts the state to torch.float32, and UniPC creates a tensor of the default dtype. During the run, both
    are float64.
    """
    scheduler = scheduler_of(name, len(alpha_bars))
    scheduler.sigmas = torch.from_numpy(np.append(np.sqrt((1 - alpha_bars) / alpha_bars), 0.0))
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(torch, "float32", torch.float64):
            return np.array(run(scheduler, noise, outputs, torch.float64))
    finally:
        torch.set_default_dtype(torch.float32)


def at_zero_snr(name: str, alpha_bars: Float64, noise: Float64, outputs: Float64) -> tuple[Float64, float]:
    """Return the states (steps, 4) for alpha-bar 0 at the first step, and the greatest error of the extrapolation."""

    def states(first: float) -> Float64:
        return run_in_float64(name, np.append(first, alpha_bars[1:]), noise, outputs)

    if len(alpha_bars) == 1:  # the step goes to sigma 0 at once: no slope, so nothing to extrapolate
        return states(NEAR_ZERO[-1]), 0.0
    logs = 0.5 * np.log(NEAR_ZERO / (1 - NEAR_ZERO))
    points = 1 / (0.5 * np.log(alpha_bars[1] / (1 - alpha_bars[1])) - logs)
    values = np.array([states(first) for first in NEAR_ZERO])
    limit = np.tensordot(weights_at_zero(points), values, 1)
    coarser = np.tensordot(weights_at_zero(points[:-1]), values[:-1], 1)
    return limit, float(np.abs(limit - coarser).max())


def weights_at_zero(points: Float64) -> Float64:
    """Return Lagrange's weights that give, from a polynomial's values at `points`, its value at 0."""
    return np.array([np.prod([q / (q - p) for q in points if q != p]) for p in points])


def main() -> None:
    """Compute all runs, print the report, and write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="file to write (.npz)")
    output = parser.parse_args().output

    lines: list[str] = []
    say: Callable[[str], None] = lines.append
    say(f"Python {platform.python_version()}, NumPy {np.__version__}, torch {torch.__version__}")
    say(f"diffusers {diffusers.__version__}: {', '.join(kind.__name__ for kind in CLASSES.values())}")
    say(f"seed {SEED}, steps {COUNTS[0]} to {COUNTS[-1]}")
    rng = np.random.default_rng(SEED)
    noise, outputs = rng.standard_normal(4), rng.standard_normal((COUNTS[-1], 4))
    noise, outputs = (array.astype(np.float32).astype(np.float64) for array in (noise, outputs))  # exact in both
    arrays: dict[str, NDArray[np.generic]] = {"noise": noise, "model_outputs": outputs}

    for name, settings in SETTINGS.items():
        say(f"{name}: {json.dumps(settings)}")
        singles, doubles, limits, errors, timesteps, alpha_bars = [], [], [], [], [], []
        for steps in COUNTS:
            scheduler = scheduler_of(name, steps)
            levels = scheduler.alphas_cumprod[scheduler.timesteps].numpy()
            timesteps.append(scheduler.timesteps.numpy())
            alpha_bars.append(levels)
            singles += run(scheduler, noise, outputs, torch.float32)
            doubles.append(run_in_float64(name, levels.astype(np.float64), noise, outputs))
            limit, error = at_zero_snr(name, levels.astype(np.float64), noise, outputs)
            limits.append(limit)
            errors.append(error)
        arrays |= {"timesteps": np.concatenate(timesteps), "alpha_bars": np.concatenate(alpha_bars)}
        arrays[f"{name}/float32_states"] = np.array(singles)
        arrays[f"{name}/float64_states"] = double = np.concatenate(doubles)
        arrays[f"{name}/zero_snr_states"] = limit = np.concatenate(limits)
        say(f"  greatest value: {np.abs(double).max():.3g}")
        say(f"  float32 differs from float64 by at most {np.abs(np.array(singles) - double).max():.2g}")
        say(f"  alpha-bar 2 ** -24 differs from 0 by at most {np.abs(double - limit).max():.2g}")
        say(f"  error of the extrapolation to alpha-bar 0: {max(errors):.1g}")

    arrays["report"] = np.array("\n".join(lines))
    print("\n".join(lines))
    np.savez_compressed(output, **arrays)


if __name__ == "__main__":
    main()
