"""What the small model is trained to predict: v, under the released model's schedule with zero terminal SNR.

v = a eps - s x0 (Salimans and Ho, arXiv 2202.00512); the schedule's end is Lin et al., arXiv 2305.08891; weights are
those of min-SNR for v (Hang et al., arXiv 2303.09556).
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.pocket.architecture import POCKET
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod

MIN_SNR = 5.0
LEAST = 0.2  # weight: by the formula alone the step from pure noise, where every video begins, would count for nothing


def _alphas() -> Tensor:
    model = POCKET.model_config()
    return torch.from_numpy(alphas_cumprod(model.train_timesteps, model.beta_start, model.beta_end).copy()).double()


ALPHAS = _alphas()


def noised(clean: Tensor, timesteps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """clean: (N, ...), timesteps: (N,) -> noisy latents, the v to predict, and the weight (N,) of each in the loss."""
    alpha = ALPHAS[timesteps].float()
    a, s = (x.sqrt().reshape(-1, *[1] * (clean.ndim - 1)) for x in (alpha, 1 - alpha))
    noise = torch.randn(clean.shape, generator=generator)
    snr = alpha / (1 - alpha).clamp(min=1e-12)
    weight = (snr.clamp(max=MIN_SNR) / (snr + 1)).clamp(min=LEAST)
    return a * clean + s * noise, a * noise - s * clean, weight
