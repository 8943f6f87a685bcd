"""Trains the autoencoder: crops of the drawings, those with a mouth or an eye more often than others."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from export.networks.vae import VaeDecoder, VaeEncoder
from export.pocket.architecture import POCKET, SIZE

CROP = 64  # pixels: the networks are convolutions but for one attention, and a crop costs a quarter
NOISE = 0.05  # of the latents' spread: what the denoiser will leave, and the decoder has to bear
DETAIL = 0.5  # weight of differences between neighbouring pixels
COLOUR = 1.0  # weight of what the first three latents are held to: their cell's mean brightness, red less blue, and
# green less both, each of about unit variance; left to itself, training found no place for green and purple
AXES = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, -3.0], [-3.0, 6.0, -3.0]])


class Autoencoder(nn.Module):
    """Both halves, under the names of the checkpoint's components. Latents are not scaled while this is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.vae_encoder, self.vae_decoder = VaeEncoder(POCKET.vae), VaeDecoder(POCKET.vae)

    def latent(self, pictures: Tensor) -> Tensor:
        """pictures: (N, 3, H, W) in [-1, 1] -> (N, c, h, w), not scaled."""
        return self.vae_encoder(pictures) / POCKET.vae.scaling_factor

    def picture(self, latents: Tensor) -> Tensor:
        """The inverse."""
        return self.vae_decoder(latents * POCKET.vae.scaling_factor)

    def loss(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """How far pictures are from what comes out, in values and in their slopes."""
        latents = self.latent(pictures)
        spread = latents.detach().std()
        noise = torch.randn(latents.shape, generator=generator) * (NOISE * spread)
        found = self.picture(latents + noise)
        slopes = sum(F.l1_loss(found.diff(dim=side), pictures.diff(dim=side)) for side in (2, 3))
        calm = 1e-4 * latents.square().mean()  # keeps the latents' size within bounds
        means = torch.einsum("ac,nchw->nahw", AXES, F.avg_pool2d(pictures, POCKET.vae.factor))
        colours = F.mse_loss(latents[:, :3], means)
        return F.l1_loss(found, pictures) + 2 * F.mse_loss(found, pictures) + DETAIL * slopes + COLOUR * colours + calm


def crops(images: NDArray[np.uint8], keypoints: NDArray[np.float32], rng: np.random.Generator) -> Tensor:
    """(N, H, W, 3) uint8 and (N, 3, 2) pixels -> one crop of each, (N, 3, CROP, CROP) in [-1, 1]."""
    pieces = []
    for image, points in zip(images, keypoints, strict=True):
        eyes, nose = points[:2].mean(axis=0), points[2]
        aims = [nose + 0.9 * (nose - eyes), eyes, rng.uniform(0, SIZE, 2)]  # mouth, eyes, anywhere
        aim = aims[rng.choice(3, p=(0.45, 0.2, 0.35))] + rng.uniform(-12, 12, 2)
        x, y = np.clip(np.round(aim - CROP / 2), 0, SIZE - CROP).astype(int)
        piece = image[y : y + CROP, x : x + CROP]
        pieces.append(piece[:, ::-1] if rng.random() < 0.5 else piece)
    return as_pictures(np.stack(pieces))


def as_pictures(images: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_images(pictures: Tensor) -> NDArray[np.uint8]:
    """The inverse, as the decoder engine rounds."""
    scaled = (pictures.detach() / 2 + 0.5).clamp(0, 1) * 255
    return scaled.permute(0, 2, 3, 1).to(torch.uint8).numpy()
