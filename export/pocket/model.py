"""The networks in training: batches of several photos and windows, with dropout of the conditions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.networks.architecture import Architecture
from export.networks.audio_projection import AudioProjection
from export.networks.denoising_unet import Conditions, DenoisingBlock, DenoisingUNet, MotionModule
from export.networks.guider import Guider
from export.networks.reference_net import ReferenceNet
from export.pocket.architecture import POCKET


@dataclass(frozen=True)
class Batch:
    """Inputs for P people with T frames each.

    Attributes:
        noisy: Noisy latents, (P, T, c, h, w).
        timesteps: (P, T).
        reference: Latents of the photos, (P, c, h, w).
        keypoint_maps: (P, T, 3, H, W) in [0, 1].
        features: Feature windows, (P, T, R, A); None: no audio.
        keep: 1 or 0 for photo, keypoints and audio, (P, 3); 0 drops the condition.
    """

    noisy: Tensor
    timesteps: Tensor
    reference: Tensor
    keypoint_maps: Tensor
    features: Tensor | None
    keep: Tensor


class TrainingModel(nn.Module):
    """All networks that are trained by denoising, with the names of the checkpoint's networks."""

    def __init__(self, architecture: Architecture = POCKET) -> None:
        super().__init__()
        self.config = architecture.audio_projection
        self.reference_net = ReferenceNet(architecture.unet)
        self.denoising_unet = DenoisingUNet(architecture.unet)
        self.v_kps_guider = Guider(architecture.guiders["keypoints"])
        self.audio_projection = AudioProjection(architecture.audio_projection)
        nn.init.normal_(self.audio_projection.latents, std=0.5)
        for module in self.modules():
            if isinstance(module, MotionModule):  # has no effect at first
                nn.init.zeros_(module.temporal_transformer.proj_out.weight)
                nn.init.zeros_(module.temporal_transformer.proj_out.bias)

    def forward(self, batch: Batch, *, motion: bool) -> Tensor:
        """Predict v.

        Args:
            batch: The inputs.
            motion: Whether the frames of a window attend to each other.

        Returns:
            (P, T, c, h, w).
        """
        people, frames, *shape = batch.noisy.shape
        count = people * frames
        keep_photo, keep_pose, keep_voice = (x.reshape(-1, 1, 1, 1) for x in batch.keep.unbind(1))
        pose_feature = self.v_kps_guider(batch.keypoint_maps.flatten(0, 1)) * keep_pose.repeat_interleave(frames, 0)
        tokens = torch.zeros(count, self.config.num_queries, self.config.output_dim)
        if batch.features is not None:
            tokens = self.audio_projection(batch.features.flatten(0, 1)) * keep_voice[..., 0].repeat_interleave(
                frames, 0
            )
        conditions = Conditions(
            frames=count,
            halves=1,
            reference={
                name: (k * keep_photo, v * keep_photo) for name, (k, v) in self._photos(batch.reference).items()
            },
            tokens=tokens,
            reference_weight=torch.ones(1),
            audio_weight=torch.ones(1),
            windows=people if motion else 0,
        )
        unet = self.denoising_unet
        prediction = unet(batch.noisy.flatten(0, 1), batch.timesteps.flatten().float(), pose_feature, conditions)
        return prediction.reshape(people, frames, *shape)

    def _photos(self, latents: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return keys and values of every reference attention by its name, (P, heads, S, E)."""
        features = self.reference_net(latents, torch.zeros(1))
        blocks = {m.name: m for m in self.denoising_unet.modules() if isinstance(m, DenoisingBlock)}
        return {name: blocks[name].attn1_5.keys_values(feature) for name, feature in features.items()}
