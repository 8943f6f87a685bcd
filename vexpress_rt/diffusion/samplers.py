"""The samplers: DDIM, DPM-Solver++(2M) and UniPC as tables of coefficients.

Symbols are the papers': alpha-bar is the share of signal at a noise level, alpha = sqrt(alpha-bar) and sigma =
sqrt(1 - alpha-bar) multiply signal and noise, lambda = ln(alpha / sigma), and h is the step of lambda. x is the noisy
latent, v the model's prediction (v-prediction: Salimans and Ho, arXiv 2202.00512, section 4 and appendix D), and
m = alpha x - sigma v the predicted picture ("denoised" in k-diffusion, "x0" in diffusers).

Each sampler's step is linear in v and in a few arrays that are kept between steps: the sampler state. It is x, and for
multistep samplers more, such as the m of the previous step. So a `Sampler` is one table of coefficients per step, which
`latent_step.take_step` applies to the state. The functions here compute the tables in float64 from the noise levels.

Two levels are special. At zero terminal SNR (Lin et al., arXiv 2305.08891) lambda is minus infinity, so m has no slope
in lambda between this level and the next, and the step after it is of first order. At the clean end lambda is infinite;
the last step is of first order too, and ends at the predicted picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.config import SAMPLERS, check_choice
from vexpress_rt.diffusion.noise_schedule import trailing_timesteps
from vexpress_rt.native.latent_step import Coefficients
from vexpress_rt.types import Float32

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Sampler:
    """A sampler with its steps.

    Attributes:
        timesteps: The denoiser's timestep input in each step, falling.
        alpha_bars: Noise levels, rising, one more than steps: the level of the latents that the denoiser gets in each
            step, and the level after the last step. A picture z with noise of step s is
            sqrt(alpha_bars[s]) z + sqrt(1 - alpha_bars[s]) epsilon.
        coefficients: For each step the table (state_size, state_size + 1) of `take_step`.
    """

    timesteps: tuple[int, ...]
    alpha_bars: tuple[float, ...]
    coefficients: tuple[Coefficients, ...]

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.timesteps)

    @property
    def state_size(self) -> int:
        """Number of arrays in a frame's state: the latent, and those that a multistep sampler keeps between steps."""
        return len(self.coefficients[0])


def make_sampler(name: str, steps: int, alphas_cumprod: Float32) -> Sampler:
    """Return a sampler over trailing timesteps.

    Args:
        name: One of `config.SAMPLERS`.
        steps: Number of steps, 1 to the number of training timesteps.
        alphas_cumprod: alpha-bar of each training timestep, from `noise_schedule.alphas_cumprod`.

    Raises:
        ConfigError: `name` is unknown, or `steps` is out of range.
    """
    check_choice("sampler", name, SAMPLERS)
    if name == "ddim":
        return ddim(steps, alphas_cumprod)
    timesteps = tuple(int(t) for t in trailing_timesteps(steps, len(alphas_cumprod)))
    alpha_bars = (*(float(alphas_cumprod[t]) for t in timesteps), 1.0)
    return Sampler(timesteps, alpha_bars, _MULTISTEP[name](alpha_bars))


def ddim(steps: int, alphas_cumprod: Float32) -> Sampler:
    """Return DDIM with eta 0, the sampler of the public implementation.

    A step goes from timestep t to t - T // steps, where T is the number of training timesteps; below timestep 0,
    alpha-bar is 1. If `steps` does not divide T, the level after a step differs a little from the level of the next
    visited timestep, and the last level from 1, as in the public implementation.

    Args:
        steps: Number of steps, 1 to T.
        alphas_cumprod: (T,) float32, from `noise_schedule.alphas_cumprod`.

    Raises:
        ConfigError: `steps` is out of range.
    """
    timesteps = tuple(int(t) for t in trailing_timesteps(steps, len(alphas_cumprod)))
    alpha_bars = tuple(float(alphas_cumprod[t]) for t in timesteps)
    targets = [t - len(alphas_cumprod) // steps for t in timesteps]
    ends = [float(alphas_cumprod[t]) if t >= 0 else 1.0 for t in targets]
    pairs = zip(alpha_bars, ends, strict=True)
    return Sampler(timesteps, (*alpha_bars, ends[-1]), tuple((ddim_coefficients(*pair),) for pair in pairs))


def ddim_coefficients(alpha_bar: float, following: float) -> tuple[float, float]:
    """Return (a, b) of the DDIM step x' = a x + b v between two noise levels, with eta 0 and no clipping.

    Computed in float64, because terms such as 1 - alpha-bar cancel near zero terminal SNR.

    Source: Song et al., arXiv 2010.02502, equation 12.

    Args:
        alpha_bar: The present level, 0 to 1.
        following: The next level, 0 to 1.
    """
    signal, noise = _signal_and_noise(alpha_bar)
    next_signal, next_noise = _signal_and_noise(following)
    # m = signal x - noise v and epsilon = noise x + signal v; x' = signal' m + noise' epsilon.
    return next_signal * signal + next_noise * noise, next_noise * signal - next_signal * noise


def dpm_solver_2m(alpha_bars: Sequence[float]) -> tuple[Coefficients, ...]:
    """Return the tables of DPM-Solver++(2M), one for each step between neighbouring levels.

    The state is x and the m of the previous step. D = m + c (m - m_before), x' = (sigma' / sigma) x + K D.

    Args:
        alpha_bars: Noise levels, rising, 0 to 1; 0 only as the first, 1 only as the last.

    Source: Lu et al., arXiv 2211.01095, algorithm 2.
    """
    x, before, v = np.eye(3)
    tables = []
    for i, (alpha_bar, following) in enumerate(pairwise(alpha_bars)):
        signal, noise = _signal_and_noise(alpha_bar)
        decay, gain = _exponential_step(alpha_bar, following)
        m = signal * x - noise * v
        tables.append(_table(decay * x + gain * (m + _slope(alpha_bars, i) * (m - before)), m))
    return tuple(tables)


def unipc(alpha_bars: Sequence[float]) -> tuple[Coefficients, ...]:
    """Return the tables of UniPC of order 2, in its form that predicts pictures, with the paper's B_2.

    The predictor (UniP-2 with a_1 = 1/2) takes x to x' as DPM-Solver++(2M) does. The model's prediction at x' also
    corrects x' (UniC-2), and the next step starts from the corrected x', so that a step costs one call of the model.
    The corrected x' is y' + e m'; e depends only on the levels, and y' is computed before m' is known.

    The state is x, y and the m of the previous step.

    Args:
        alpha_bars: Noise levels, rising, 0 to 1; 0 only as the first, 1 only as the last.

    Source: Zhao et al., arXiv 2302.04867.
    """
    x, y, before, v = np.eye(4)
    tables, e = [], 0.0
    for i, (alpha_bar, following) in enumerate(pairwise(alpha_bars)):
        signal, noise = _signal_and_noise(alpha_bar)
        decay, gain = _exponential_step(alpha_bar, following)
        m = signal * x - noise * v
        corrected = y + e * m if i else x
        predicted = decay * corrected + gain * (m + _slope(alpha_bars, i) * (m - before))
        past, present = _corrector(alpha_bars, i)
        tables.append(_table(predicted, decay * corrected + gain * (m + past * (before - m) - present * m), m))
        e = gain * present
    return tuple(tables)


_MULTISTEP: dict[str, Callable[[Sequence[float]], tuple[Coefficients, ...]]] = {
    "dpm++2m": dpm_solver_2m,
    "unipc": unipc,
}


def _corrector(alpha_bars: Sequence[float], i: int) -> tuple[float, float]:
    """Return the corrector's weights in step i: of the difference of m to the previous step, and to the next step.

    UniC-2 solves R rho = b (theorem 3.1) for the points r_1 = -h_before / h and 1. The first weight is rho_1 / r_1,
    because the difference is divided by its distance. As r_1 goes to minus infinity, rho_1 / r_1 goes to 0 and rho_2 to
    b_1. The first step uses UniC-1 with rho = 1/2; the weights of the last step are not used.
    """
    here, after = alpha_bars[i], alpha_bars[i + 1]
    if i == 0 or after in (here, 1):
        return 0.0, 0.5
    h = _lambda(after) - _lambda(here)
    scale = math.expm1(-h)
    first = scale / -h - 1
    if _slope(alpha_bars, i) == 0:
        return 0.0, first / scale
    r = (_lambda(alpha_bars[i - 1]) - _lambda(here)) / h
    second = first / -h - 1 / 2
    rho = np.linalg.solve(np.array([[1.0, 1.0], [r, 1.0]]), np.array([first, 2 * second]) / scale)
    return float(rho[0] / r), float(rho[1])


def _slope(alpha_bars: Sequence[float], i: int) -> float:
    """Return c of D = m + c (m - m_before) in step i: h / (2 h_before), or 0 in the steps of first order."""
    if i == 0 or alpha_bars[i - 1] == 0 or alpha_bars[i + 1] == 1 or alpha_bars[i - 1] == alpha_bars[i]:
        return 0.0
    before, here, after = (_lambda(alpha_bar) for alpha_bar in alpha_bars[i - 1 : i + 2])
    return (after - here) / (2 * (here - before))


def _exponential_step(alpha_bar: float, following: float) -> tuple[float, float]:
    """Return (sigma' / sigma, K) of x' = (sigma' / sigma) x + K m, which is exact for a constant m.

    K is alpha' (1 - e^-h), written in a form that is finite at both ends: alpha' from pure noise, 1 to the clean end.
    """
    signal, noise = _signal_and_noise(alpha_bar)
    next_signal, next_noise = _signal_and_noise(following)
    decay = next_noise / noise
    return decay, next_signal - signal * decay


def _signal_and_noise(alpha_bar: float) -> tuple[float, float]:
    """Return alpha and sigma, the factors of signal and noise."""
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5


def _lambda(alpha_bar: float) -> float:
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def _table(*rows: Float64) -> Coefficients:
    return tuple(tuple(float(number) for number in row) for row in rows)
