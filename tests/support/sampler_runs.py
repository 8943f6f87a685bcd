"""Runs of samplers on single numbers, with models that are functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from vexpress_rt.diffusion.noise_schedule import alphas_cumprod
from vexpress_rt.native.latent_step import Coefficients

ALPHAS = alphas_cumprod(1000, 0.00085, 0.012)
Model = Callable[[float, float], float]  # x and alpha-bar -> v


def follow(tables: Sequence[Coefficients], levels: Sequence[float], model: Model, x: float) -> list[float]:
    """Every x of a run, in float64; what is remembered is not a number until it is written."""
    state, seen = [x, *[math.nan] * (len(tables[0]) - 1)], [x]
    for table, level in zip(tables, levels[:-1], strict=True):
        terms = [*state, model(state[0], level)]
        state = [sum(c * term for c, term in zip(row, terms, strict=True) if c != 0) for row in table]
        seen.append(state[0])
    return seen
