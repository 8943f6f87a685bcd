"""The denoiser in upstream's order of computation: the baseline for the engines' speed.

Conditional and unconditional pass run as one batch through every layer. The photo's reference features, and zeros for
the unconditional pass, are repeated for every frame. Each call projects keys and values of these features and of the
audio tokens again. Modules, weights and PyTorch's kernels are those of `export.networks`. Upstream also holds latents
as (b, c, f, h, w) and rearranges them around every layer; here frames are part of the batch, which makes the baseline
faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.networks.config import UNetConfig
from export.networks.denoising_unet import DenoisingBlock, DenoisingParts, DenoisingUNet
from export.networks.unet import UNet


@dataclass(frozen=True)
class UpstreamConditions:
    """The conditions of a block. The batch has F unconditional frames, then F conditional ones.

    Attributes:
        frames: F, frames of a window.
        features: (2, S, C) of ReferenceNet by attention site; the first is zeros.
        tokens: (2 F, Q, D) audio tokens; the first half is zeros.
        reference_weight: Weight of the attention to the features.
        audio_weight: Weight of the attention to the tokens.
        windows: Number of windows in the batch.
    """

    frames: int
    features: Mapping[str, Tensor]
    tokens: Tensor
    reference_weight: Tensor
    audio_weight: Tensor
    windows: int = 1


class UpstreamBlock(DenoisingBlock):
    """A block that computes every attention for both passes."""

    def forward(self, x: Tensor, conditions: UpstreamConditions) -> Tensor:  # type: ignore[override]
        """Return the output (2 F, S, C) for x (2 F, S, C)."""
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        features = conditions.features[self.name]
        repeated = features[:, None].repeat(1, conditions.frames, 1, 1).reshape(-1, *features.shape[1:])
        x = x + conditions.reference_weight * self.attn1_5(self.norm1_5(x), repeated)
        x = x + conditions.audio_weight * self.attn2(self.norm2(x), conditions.tokens)
        return x + self.ff(self.norm3(x))


class _UpstreamParts(DenoisingParts):
    def transformer_block(self, channels: int, name: str) -> nn.Module:
        return UpstreamBlock(channels, self.config, name)


class UpstreamUNet(DenoisingUNet):
    """A denoising U-Net of `UpstreamBlock`; it takes the state dict of a `DenoisingUNet`."""

    def __init__(self, config: UNetConfig):
        super().__init__(config, _UpstreamParts(config))

    def forward(  # type: ignore[override]
        self, latents: Tensor, timestep: Tensor, pose_feature: Tensor, conditions: UpstreamConditions
    ) -> Tensor:
        """Return predictions (2 F, c, h, w) for latents (2 F, c, h, w), timestep (1,), pose_feature (2 F, K, h, w)."""
        x = UNet.trunk(self, self.conv_in(latents) + pose_feature, timestep, conditions)
        return self.conv_out(functional.silu(self.conv_norm_out(x)))


class UpstreamDenoiser(nn.Module):
    """Both predictions for a window.

    Args:
        unet: The U-Net with the weights, which are shared, not copied.
    """

    def __init__(self, unet: DenoisingUNet):
        super().__init__()
        with torch.device("meta"):
            self.unet = UpstreamUNet(unet.config).eval()
        self.unet.load_state_dict(unet.state_dict(), assign=True)

    def forward(
        self, latents: Tensor, timestep: Tensor, reference_weight: Tensor, audio_weight: Tensor, pose_feature: Tensor,
        audio_tokens: Tensor, features: Mapping[str, Tensor],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return the unconditional and the conditional prediction, (F, c, h, w) each.

        Inputs are those of the denoiser engine, except `features`: (1, S, C) by attention site instead of keys and
        values.
        """
        conditions = UpstreamConditions(
            frames=len(latents),
            features={name: with_zeros(feature) for name, feature in features.items()},
            tokens=with_zeros(audio_tokens),
            reference_weight=reference_weight,
            audio_weight=audio_weight,
        )
        both = self.unet(torch.cat([latents] * 2), timestep, with_zeros(pose_feature), conditions)
        unconditional, conditional = both.chunk(2)
        return unconditional, conditional


def with_zeros(x: Tensor) -> Tensor:
    """Return (2 N, ...): zeros for the unconditional pass, then x (N, ...)."""
    return torch.cat([torch.zeros_like(x), x])
