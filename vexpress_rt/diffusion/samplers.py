"""The samplers: what a step does to a frame's latent, and to what is remembered of it.

Symbols as in the papers: alpha-bar is the share of signal at a noise level, alpha = sqrt(alpha-bar) and sigma =
sqrt(1 - alpha-bar) are what signal and noise are multiplied by, lambda = ln(alpha / sigma), h the step of lambda; x is
the noisy latent, v the model's prediction (v-prediction: Salimans and Ho, arXiv 2202.00512, section 4 and appendix D),
m = alpha x - sigma v the picture that it predicts.

All of them are linear in v, so a sampler is a table of numbers, a `Sampler`, and `take_step` is all that ever happens
to a latent. The functions here make the tables, in float64, from noise levels alone. Two of the levels need care.
At zero terminal SNR (Lin et al., arXiv 2305.08891) lambda is minus infinity: a prediction from there has no slope in
lambda to give, so the step after it is of first order. At the clean end lambda is infinite: no slope reaches that
far, and the last step, of first order too, ends on the picture as it is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.config import SAMPLERS, check_choice
from vexpress_rt.diffusion.noise_schedule import Float32, trailing_timesteps
from vexpress_rt.native.latent_step import Coefficients

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Sampler:
    """What is to be done in each step, first step first.

    timesteps: what the denoiser is told, one a step, falling.
    alpha_bars: noise levels, one more than steps, rising: that of the latents which the denoiser gets in each step, and
        that of what the last step leaves. Noise of a picture z at step s is sqrt(alpha_bars[s]) z +
        sqrt(1 - alpha_bars[s]) epsilon.
    coefficients: for each step a table (state_size, state_size + 1) for `take_step`.
    """

    timesteps: tuple[int, ...]
    alpha_bars: tuple[float, ...]
    coefficients: tuple[Coefficients, ...]

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.timesteps)

    @property
    def state_size(self) -> int:
        """How many of a latent's size a frame needs: the latent, and what is remembered beside it."""
        return len(self.coefficients[0])


def make_sampler(name: str, steps: int, alphas_cumprod: Float32) -> Sampler:
    """The sampler `name` of `config.SAMPLERS` with `steps` steps over trailing timesteps.

    alphas_cumprod: alpha-bar of each training timestep, as `schedule.alphas_cumprod` gives it.
    Raises ConfigError for an unknown name, and for a count outside 1 to the number of training timesteps.
    """
    check_choice("sampler", name, SAMPLERS)
    if name == "ddim":
        return ddim(steps, alphas_cumprod)
    timesteps = tuple(int(t) for t in trailing_timesteps(steps, len(alphas_cumprod)))
    alpha_bars = (*(float(alphas_cumprod[t]) for t in timesteps), 1.0)
    return Sampler(timesteps, alpha_bars, _MULTISTEP[name](alpha_bars))


def ddim(steps: int, alphas_cumprod: Float32) -> Sampler:
    """The sampler of the public implementation: DDIM with eta 0. Raises ConfigError for a count outside 1 to T.

    A step goes from timestep t to t - T // steps, T being the number of training timesteps; before timestep 0,
    alpha-bar is 1. Where `steps` does not divide T that differs a little from the timestep visited next, and the end
    from 1, as it does upstream.
    """
    timesteps = tuple(int(t) for t in trailing_timesteps(steps, len(alphas_cumprod)))
    alpha_bars = tuple(float(alphas_cumprod[t]) for t in timesteps)
    targets = [t - len(alphas_cumprod) // steps for t in timesteps]
    ends = [float(alphas_cumprod[t]) if t >= 0 else 1.0 for t in targets]
    pairs = zip(alpha_bars, ends, strict=True)
    return Sampler(timesteps, (*alpha_bars, ends[-1]), tuple((ddim_coefficients(*pair),) for pair in pairs))


def ddim_coefficients(alpha_bar: float, following: float) -> tuple[float, float]:
    """(a, b) of the DDIM step x' = a x + b v between two noise levels, with eta 0 and no clipping.

    Song et al., arXiv 2010.02502, equation 12. In float64: with zero terminal SNR, 1 - alpha-bar and its kin cancel.
    """
    signal, noise = _signal_and_noise(alpha_bar)
    next_signal, next_noise = _signal_and_noise(following)
    # m = signal x - noise v and epsilon = noise x + signal v; x' = signal' m + noise' epsilon.
    return next_signal * signal + next_noise * noise, next_noise * signal - next_signal * noise


def dpm_solver_2m(alpha_bars: Sequence[float]) -> tuple[Coefficients, ...]:
    """DPM-Solver++(2M), Lu et al., arXiv 2211.01095, algorithm 2: a table for each step between neighbouring levels.

    alpha_bars: rising, 0 to 1; 0 only first, 1 only last.
    Vectors are x and the m of the step before.  D = m + c (m - m before),  x' = (sigma' / sigma) x + K D.
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
    """UniPC of order 2, Zhao et al., arXiv 2302.04867, for predicted pictures, with its B_2: tables as above.

    alpha_bars: rising, 0 to 1; 0 only first, 1 only last.
    The predictor (UniP-2, whose a_1 may be 1/2) takes x to x', as DPM-Solver++(2M) does; the model's answer to x' also
    corrects it (UniC-2), and the next step starts from the corrected one, so that a step costs one call nonetheless.
    That correction is y' + e m', with an e that depends on the levels, and a y' that is known before m' is.

    Vectors are x, y and the m of the step before.
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
    """Weights, in the corrector of step i, of m's differences to the step before and to the step after.

    UniC-2: R rho = b (theorem 3.1) for the points r_1 = -h before / h and 1; the first weight is rho_1 / r_1, since the
    difference is divided by its distance. As r_1 goes to minus infinity rho_1 / r_1 goes to 0 and rho_2 to b_1. Of the
    first step UniC-1, whose rho may be 1/2; what the last one gets is not used.
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
    """c of D = m + c (m - m before) in step i: h / (2 h before), or 0 where there is no slope to follow: see above."""
    if i == 0 or alpha_bars[i - 1] == 0 or alpha_bars[i + 1] == 1 or alpha_bars[i - 1] == alpha_bars[i]:
        return 0.0
    before, here, after = (_lambda(alpha_bar) for alpha_bar in alpha_bars[i - 1 : i + 2])
    return (after - here) / (2 * (here - before))


def _exponential_step(alpha_bar: float, following: float) -> tuple[float, float]:
    """(sigma' / sigma, K) of x' = (sigma' / sigma) x + K m, which is exact for an m that does not change.

    K is alpha' (1 - e^-h), written so that it has its limits at both ends: alpha' from no signal, and 1 to no noise.
    """
    signal, noise = _signal_and_noise(alpha_bar)
    next_signal, next_noise = _signal_and_noise(following)
    decay = next_noise / noise
    return decay, next_signal - signal * decay


def _signal_and_noise(alpha_bar: float) -> tuple[float, float]:
    """alpha and sigma."""
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5


def _lambda(alpha_bar: float) -> float:
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def _table(*rows: Float64) -> Coefficients:
    return tuple(tuple(float(number) for number in row) for row in rows)
