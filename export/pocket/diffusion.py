"""The diffusion process of the training: v-prediction with the released model's noise schedule.

v = a eps - s x0 (Salimans and Ho, arXiv 2202.00512), zero terminal SNR (Lin et al., arXiv 2305.08891), min-SNR weights
for v (Hang et al., arXiv 2303.09556).
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.pocket.architecture import POCKET
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod

MIN_SNR = 5.0
MIN_WEIGHT = 0.2  # by the formula, the step from pure noise, with which each video begins, has weight 0


def _alphas() -> Tensor:
    model = POCKET.model_config()
    return torch.from_numpy(alphas_cumprod(model.train_timesteps, model.beta_start, model.beta_end).copy()).double()


ALPHAS = _alphas()


def noised(clean: Tensor, timesteps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Add noise to latents.

    Args:
        clean: (N, ...).
        timesteps: (N,) int64.
        generator: Random generator of the noise.

    Returns:
        Noisy latents (N, ...), the v to predict (N, ...), and the weight of each in the loss (N,).
    """
    alpha = ALPHAS[timesteps].float()
    a, s = (x.sqrt().reshape(-1, *[1] * (clean.ndim - 1)) for x in (alpha, 1 - alpha))
    noise = torch.randn(clean.shape, generator=generator)
    snr = alpha / (1 - alpha).clamp(min=1e-12)
    weight = (snr.clamp(max=MIN_SNR) / (snr + 1)).clamp(min=MIN_WEIGHT)
    return a * clean + s * noise, a * noise - s * clean, weight
