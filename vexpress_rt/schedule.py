"""The sampler: which timesteps are visited, and what one step does to the latents.

Symbols as in the papers: alpha-bar (`alphas_cumprod`) is the share of signal left at a timestep, x the noisy latent,
v the model's prediction (v-prediction: Salimans and Ho, arXiv 2202.00512, section 4 and appendix D). DDIM: Song et al.,
arXiv 2010.02502, equation 12 with eta 0. Zero terminal SNR and trailing timesteps: Lin et al., arXiv 2305.08891,
algorithm 1 and table 2. A sampler is a `Sampler`: `denoise` only loops over one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import ConfigError

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Sampler:
    """What is to be done in each step, first step first.

    timesteps: what the denoiser is told, one a step, falling.
    coefficients: (a, b), one pair a step, of x' = a x + b v.
    """

    timesteps: tuple[int, ...]
    coefficients: tuple[tuple[float, float], ...]

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.timesteps)


def alphas_cumprod(timesteps: int, beta_start: float, beta_end: float) -> Float32:
    """Alpha-bar of each training timestep: (timesteps,) float32, falling from nearly 1 to exactly 0.

    The square roots of the betas rise linearly from sqrt(beta_start) to sqrt(beta_end); then sqrt(alpha-bar) is shifted
    and scaled so that its last value is 0 and its first one stays, and alpha-bar is rebuilt from the new betas.
    Every intermediate is rounded to float32, as in the public implementation: at the noisy end that moves alpha-bar by
    more than a float32's own error, and the model was used with these values.

    Raises ConfigError for fewer than 2 timesteps, or betas outside 0 < beta_start <= beta_end < 1.
    """
    if timesteps < 2 or not 0 < beta_start <= beta_end < 1:
        raise ConfigError(
            f"a noise schedule of {timesteps} timesteps with betas from {beta_start} to {beta_end}; "
            "expected at least 2 timesteps and 0 < beta_start <= beta_end < 1"
        )
    roots = _float32_line(beta_start**0.5, beta_end**0.5, timesteps)
    s = np.sqrt(_running_product(1 - roots * roots))
    s = (s - s[-1]) * (s[0] / (s[0] - s[-1]))
    target = s * s
    betas = 1 - np.concatenate([target[:1], target[1:] / target[:-1]])
    return _running_product(1 - betas)


def trailing_timesteps(steps: int, train_timesteps: int) -> NDArray[np.int64]:
    """Timesteps to visit, (steps,) int64, falling from train_timesteps - 1: T - k T / steps, rounded, minus 1.

    Halves round to the even neighbour. The quotient is formed from exact integers, so that halves are halves; the
    public implementation accumulates a float step instead, which for 111 of the 1000 possible counts (48 is the
    smallest) moves a timestep by one or adds a step too many. Counts that it gets right give its timesteps.

    Raises ConfigError unless 1 <= steps <= train_timesteps.
    """
    if not 1 <= steps <= train_timesteps:
        raise ConfigError(
            f"steps is {steps}; expected 1 to {train_timesteps}, the timesteps that the model was trained on"
        )
    positions = np.arange(steps, 0, -1) * train_timesteps / steps
    return np.round(positions).astype(np.int64) - 1


def ddim_coefficients(timestep: int, steps: int, alphas_cumprod: Float32) -> tuple[float, float]:
    """(a, b) of the DDIM step x' = a x + b v from `timestep`, with eta 0, v-prediction and no clipping.

    The step goes to timestep - T // steps, T being the length of `alphas_cumprod`; before timestep 0, alpha-bar is 1.
    Formed in float64 from the float32 alpha-bars: with zero terminal SNR, 1 - alpha-bar and its kin cancel.
    """
    previous = timestep - len(alphas_cumprod) // steps
    alpha = float(alphas_cumprod[timestep])
    alpha_previous = float(alphas_cumprod[previous]) if previous >= 0 else 1.0
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    signal_previous, noise_previous = alpha_previous**0.5, (1 - alpha_previous) ** 0.5
    # x0 = signal x - noise v and epsilon = noise x + signal v; x' = signal' x0 + noise' epsilon.
    return signal_previous * signal + noise_previous * noise, noise_previous * signal - signal_previous * noise


def ddim_step(x: Float32, v: Float32, coefficients: tuple[float, float]) -> Float32:
    """x' = a x + b v, in float32; x and v of one shape, any."""
    a, b = np.float32(coefficients[0]), np.float32(coefficients[1])
    return np.asarray(a * x + b * v, np.float32)


def ddim(steps: int, alphas_cumprod: Float32) -> Sampler:
    """The DDIM sampler of `steps` steps over trailing timesteps. Raises ConfigError for a count outside 1 to T."""
    timesteps = tuple(int(t) for t in trailing_timesteps(steps, len(alphas_cumprod)))
    return Sampler(timesteps, tuple(ddim_coefficients(t, steps, alphas_cumprod) for t in timesteps))


def guide(unconditional: Float32, conditional: Float32, scale: float) -> Float32:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): u + scale (c - u), in float32."""
    return np.asarray(unconditional + np.float32(scale) * (conditional - unconditional), np.float32)


def _float32_line(start: float, stop: float, count: int) -> Float32:
    """`count` values from start to stop with a float32 spacing, counted from the nearer end, each rounded once."""
    first, last = np.float32(start), np.float32(stop)
    spacing = float((last - first) / np.float32(count - 1))
    index = np.arange(count)
    rising = float(first) + spacing * index
    falling = float(last) - spacing * (count - 1 - index)
    return np.where(index < count // 2, rising, falling).astype(np.float32)


def _running_product(factors: Float32) -> Float32:
    """Cumulative product accumulated in float64, each value rounded to float32."""
    return np.cumprod(factors, dtype=np.float64).astype(np.float32)
