"""The denoiser as upstream's PyTorch computes it: the baseline that the engines' speed is counted against.

Both halves of guidance go through everything. The reference features of the photo, and zeros for the unconditional
half, are repeated for every frame, and each attention to them projects its keys and values anew, in every call; so
does the attention to the audio tokens. Modules, weights and PyTorch's kernels are those of `export.networks`. Upstream
also carries pictures as (b, c, f, h, w) and rearranges them around every layer; here frames lie in the batch, which
only makes the baseline faster.
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
    """What a block looks at. Rows are unconditional frames, then conditional ones, `frames` of each.

    features: of ReferenceNet, (2, S, C) by attention site, the first half zeros.  tokens: (2 F, Q, D), likewise.
    """

    frames: int
    features: Mapping[str, Tensor]
    tokens: Tensor
    reference_weight: Tensor
    audio_weight: Tensor
    windows: int = 1


class UpstreamBlock(DenoisingBlock):
    """Every attention on every row."""

    def forward(self, x: Tensor, conditions: UpstreamConditions) -> Tensor:  # type: ignore[override]
        """x: (2 F, S, C) -> the same shape."""
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
    """Takes the state dict of a `DenoisingUNet`."""

    def __init__(self, config: UNetConfig):
        super().__init__(config, _UpstreamParts(config))

    def forward(  # type: ignore[override]
        self, latents: Tensor, timestep: Tensor, pose_feature: Tensor, conditions: UpstreamConditions
    ) -> Tensor:
        """latents: (2 F, c, h, w), timestep: (1,), pose_feature: (2 F, K, h, w) -> (2 F, c, h, w)."""
        x = UNet.trunk(self, self.conv_in(latents) + pose_feature, timestep, conditions)
        return self.conv_out(functional.silu(self.conv_norm_out(x)))


class UpstreamDenoiser(nn.Module):
    """One call of the pipeline: both predictions for a window, from what does not depend on the step.

    unet: whose weights to take; they are shared, not copied.
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
        """Inputs as the denoiser engine's, but `features` (1, S, C) by attention site for keys and values.

        Gives the unconditional and the conditional prediction, (F, c, h, w) each.
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
    """(N, ...) -> (2 N, ...): zeros for the unconditional half, then x."""
    return torch.cat([torch.zeros_like(x), x])
