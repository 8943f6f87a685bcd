"""The networks while they are trained: many photos and windows in a batch, each condition dropped here and there."""

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
    """P people, T frames of each.

    noisy: (P, T, c, h, w).  timesteps: (P, T).  reference: (P, c, h, w), latents of the photos.
    drawings: (P, T, 3, H, W) in [0, 1], of keypoints.  rows: (P, T, R, A), audio features; None: nothing is heard.
    keep: (P, 3) of 0 and 1: whether photo, keypoints and voice are there.
    """

    noisy: Tensor
    timesteps: Tensor
    reference: Tensor
    drawings: Tensor
    rows: Tensor | None
    keep: Tensor


class Trainee(nn.Module):
    """Everything that is trained by denoising, under the names of the checkpoint's components."""

    def __init__(self, architecture: Architecture = POCKET) -> None:
        super().__init__()
        self.config = architecture.audio_projection
        self.reference_net = ReferenceNet(architecture.unet)
        self.denoising_unet = DenoisingUNet(architecture.unet)
        self.v_kps_guider = Guider(architecture.guider)
        self.audio_projection = AudioProjection(architecture.audio_projection)
        nn.init.normal_(self.audio_projection.latents, std=0.5)
        for module in self.modules():
            if isinstance(module, MotionModule):  # starts as if it were not there
                nn.init.zeros_(module.temporal_transformer.proj_out.weight)
                nn.init.zeros_(module.temporal_transformer.proj_out.bias)

    def forward(self, batch: Batch, *, motion: bool) -> Tensor:
        """The prediction (P, T, c, h, w).  motion: let frames of a window see each other."""
        people, frames, *shape = batch.noisy.shape
        count = people * frames
        keep_photo, keep_pose, keep_voice = (x.reshape(-1, 1, 1, 1) for x in batch.keep.unbind(1))
        features = self.v_kps_guider(batch.drawings.flatten(0, 1)) * keep_pose.repeat_interleave(frames, 0)
        tokens = torch.zeros(count, self.config.num_queries, self.config.output_dim)
        if batch.rows is not None:
            tokens = self.audio_projection(batch.rows.flatten(0, 1)) * keep_voice[..., 0].repeat_interleave(frames, 0)
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
        prediction = unet(batch.noisy.flatten(0, 1), batch.timesteps.flatten().float(), features, conditions)
        return prediction.reshape(people, frames, *shape)

    def _photos(self, latents: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Keys and values of every attention site, (P, heads, S, E)."""
        features = self.reference_net(latents, torch.zeros(1))
        blocks = {m.name: m for m in self.denoising_unet.modules() if isinstance(m, DenoisingBlock)}
        return {name: blocks[name].attn1_5.keys_values(feature) for name, feature in features.items()}
