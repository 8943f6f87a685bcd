"""The autoencoder in training, and crops of the drawings, most of them of mouths and eyes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from export.networks.vae import VaeDecoder, VaeEncoder
from export.pocket.architecture import POCKET, SIZE

CROP = 64  # pixels: a quarter of the cost. Crops suffice, because all layers but one attention are convolutions
NOISE = 0.05  # over the latents' standard deviation, like the error that a denoiser leaves
DETAIL = 0.5  # weight of differences between neighbouring pixels
# Weight of a loss between the first three latent channels and AXES of a cell's mean colour: brightness, red minus blue,
# and green minus both, each of about unit variance. Without it, training represented green and purple badly.
COLOUR = 1.0
AXES = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, -3.0], [-3.0, 6.0, -3.0]])


class Autoencoder(nn.Module):
    """Encoder and decoder, with the names of the checkpoint's networks. In training, latents are not scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.vae_encoder, self.vae_decoder = VaeEncoder(POCKET.vae), VaeDecoder(POCKET.vae)

    def latent(self, pictures: Tensor) -> Tensor:
        """Encode images.

        Args:
            pictures: (N, 3, H, W) in [-1, 1].

        Returns:
            Latents (N, c, h, w), not scaled.
        """
        return self.vae_encoder(pictures) / POCKET.vae.scaling_factor

    def picture(self, latents: Tensor) -> Tensor:
        """Decode latents.

        Args:
            latents: (N, c, h, w), not scaled.

        Returns:
            Images (N, 3, H, W), nominally in [-1, 1].
        """
        return self.vae_decoder(latents * POCKET.vae.scaling_factor)

    def loss(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Compute the reconstruction loss.

        Args:
            pictures: (N, 3, H, W) in [-1, 1].
            generator: Random generator of the noise on the latents.

        Returns:
            The loss over values, differences between neighbouring pixels, and latents, scalar.
        """
        latents = self.latent(pictures)
        spread = latents.detach().std()
        noise = torch.randn(latents.shape, generator=generator) * (NOISE * spread)
        found = self.picture(latents + noise)
        differences = sum(F.l1_loss(found.diff(dim=side), pictures.diff(dim=side)) for side in (2, 3))
        penalty = 1e-4 * latents.square().mean()  # keeps the latents from growing
        means = torch.einsum("ac,nchw->nahw", AXES, F.avg_pool2d(pictures, POCKET.vae.factor))
        colours = F.mse_loss(latents[:, :3], means)
        values = F.l1_loss(found, pictures) + 2 * F.mse_loss(found, pictures)
        return values + DETAIL * differences + COLOUR * colours + penalty


def crops(images: NDArray[np.uint8], keypoints: NDArray[np.float32], rng: np.random.Generator) -> Tensor:
    """Cut a random crop from each image.

    Args:
        images: (N, H, W, 3) uint8.
        keypoints: (N, 3, 2), pixels.
        rng: Random generator of the crops.

    Returns:
        (N, 3, CROP, CROP) in [-1, 1].
    """
    pieces = []
    for image, points in zip(images, keypoints, strict=True):
        eyes, nose = points[:2].mean(axis=0), points[2]
        aims = [nose + 0.9 * (nose - eyes), eyes, rng.uniform(0, SIZE, 2)]  # mouth, eyes, anywhere
        aim = aims[rng.choice(3, p=(0.45, 0.2, 0.35))] + rng.uniform(-12, 12, 2)
        x, y = np.clip(np.round(aim - CROP / 2), 0, SIZE - CROP).astype(int)
        piece = image[y : y + CROP, x : x + CROP]
        pieces.append(piece[:, ::-1] if rng.random() < 0.5 else piece)
    return to_model_range(np.stack(pieces))


def to_model_range(images: NDArray[np.uint8]) -> Tensor:
    """Convert images to the range of the model.

    Args:
        images: (N, H, W, 3) uint8.

    Returns:
        (N, 3, H, W) in [-1, 1].
    """
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(pictures: Tensor) -> NDArray[np.uint8]:
    """Convert the model's output to images, rounded like the decoder engine.

    Args:
        pictures: (N, 3, H, W), clamped to [-1, 1].

    Returns:
        (N, H, W, 3) uint8.
    """
    scaled = (pictures.detach() / 2 + 0.5).clamp(0, 1) * 255
    return scaled.permute(0, 2, 3, 1).to(torch.uint8).numpy()
