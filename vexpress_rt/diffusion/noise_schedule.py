"""The noise schedule: alpha-bar of each training timestep, and the timesteps that the sampler visits.

alpha-bar (`alphas_cumprod`) is the share of signal at a timestep. Zero terminal SNR and trailing timesteps: Lin et al.,
arXiv 2305.08891, algorithm 1 and table 2. `samplers` computes the steps between the timesteps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import ConfigError
from vexpress_rt.types import Float32


def alphas_cumprod(timesteps: int, beta_start: float, beta_end: float) -> Float32:
    """Return alpha-bar of each training timestep, falling from nearly 1 to exactly 0 (zero terminal SNR).

    The square roots of the betas rise linearly from sqrt(beta_start) to sqrt(beta_end). Then sqrt(alpha-bar) is shifted
    and scaled so that its last value is 0 and its first one stays, and alpha-bar is computed from the new betas. Every
    intermediate value is rounded to float32, as in the public implementation: at the noisy end, this changes alpha-bar
    by more than one float32 rounding, and the model expects the rounded values.

    Args:
        timesteps: Number of training timesteps, at least 2.
        beta_start: First beta, 0 < beta_start <= beta_end.
        beta_end: Last beta, below 1.

    Returns:
        (timesteps,) float32.

    Raises:
        ConfigError: An argument is out of range.
    """
    if timesteps < 2 or not 0 < beta_start <= beta_end < 1:
        raise ConfigError(
            f"a noise schedule of {timesteps} timesteps with betas from {beta_start} to {beta_end}; "
            "expected at least 2 timesteps and 0 < beta_start <= beta_end < 1"
        )
    roots = _float32_linspace(beta_start**0.5, beta_end**0.5, timesteps)
    s = np.sqrt(_running_product(1 - roots * roots))
    s = (s - s[-1]) * (s[0] / (s[0] - s[-1]))
    target = s * s
    betas = 1 - np.concatenate([target[:1], target[1:] / target[:-1]])
    return _running_product(1 - betas)


def trailing_timesteps(steps: int, train_timesteps: int) -> NDArray[np.int64]:
    """Return the timesteps to visit: T - k T / steps, rounded, minus 1, for k = 0 to steps - 1.

    Halves round to the even neighbour; they are exact, because k T is an integer. The public implementation accumulates
    a float step instead. For 111 of the 1000 possible numbers of steps (48 is the smallest) that moves a timestep by
    one or adds a step; for the others the timesteps are the same.

    Args:
        steps: Number of steps, 1 to `train_timesteps`.
        train_timesteps: T, the number of timesteps that the model was trained on.

    Returns:
        (steps,) int64, falling from train_timesteps - 1.

    Raises:
        ConfigError: `steps` is out of range.
    """
    if not 1 <= steps <= train_timesteps:
        raise ConfigError(
            f"steps is {steps}; expected 1 to {train_timesteps}, the timesteps that the model was trained on"
        )
    positions = np.arange(steps, 0, -1) * train_timesteps / steps
    return np.round(positions).astype(np.int64) - 1


def _float32_linspace(start: float, stop: float, count: int) -> Float32:
    """Return `count` values from start to stop with a float32 spacing, counted from the nearer end, rounded once."""
    first, last = np.float32(start), np.float32(stop)
    spacing = float((last - first) / np.float32(count - 1))
    index = np.arange(count)
    rising = float(first) + spacing * index
    falling = float(last) - spacing * (count - 1 - index)
    return np.where(index < count // 2, rising, falling).astype(np.float32)


def _running_product(factors: Float32) -> Float32:
    """Return the cumulative product, accumulated in float64, with each value rounded to float32."""
    return np.cumprod(factors, dtype=np.float64).astype(np.float32)
