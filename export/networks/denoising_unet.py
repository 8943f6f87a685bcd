"""The denoising U-Net with reference attention, audio attention and motion modules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.networks.config import UNetConfig
from export.networks.layers import Attention, FeedForward, GroupNorm, LayerNorm, cast
from export.networks.unet import UNet


@dataclass(frozen=True)
class Conditions:
    """The inputs of the U-Net's blocks besides the images.

    The batch has the unconditional half first, unless there is only one half, then the conditional half.

    Attributes:
        frames: F, the images of a half.
        halves: 1 or 2.
        reference: Keys and values of the reference attentions, (heads, S, E) by the name of the attention.
        tokens: Audio tokens, (F, Q, D).
        reference_weight: Weight of the reference attention, (1,) or scalar.
        audio_weight: Weight of the audio attention, (1,) or scalar.
        windows: Number of windows that the F images consist of; in training there may be several, with keys and values
            (windows, heads, S, E). 0: the images are not consecutive frames, and motion modules do nothing.
    """

    frames: int
    halves: int
    reference: Mapping[str, tuple[Tensor, Tensor]]
    tokens: Tensor
    reference_weight: Tensor
    audio_weight: Tensor
    windows: int = 1


class DenoisingBlock(nn.Module):
    """A transformer block: self-attention, reference attention, audio attention, feed-forward.

    In the unconditional half, reference features and tokens are zero. Since k and v have no bias, both attentions equal
    their output bias there, and are not computed.
    """

    def __init__(self, channels: int, config: UNetConfig, name: str):
        super().__init__()
        self.name = name
        self.norm1, self.norm1_5 = LayerNorm(channels), LayerNorm(channels)
        self.norm2, self.norm3 = LayerNorm(channels), LayerNorm(channels)
        self.attn1 = Attention(channels, channels, config.heads)
        self.attn1_5 = Attention(channels, channels, config.heads)
        self.attn2 = Attention(channels, config.cross_attention_dim, config.heads)
        self.ff = FeedForward(channels)

    def reference_attention(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend to the keys and values of one or several photos.

        All frames of a photo have the same keys, so their positions become the queries of one attention.

        Args:
            x: (F, S, C).
            keys: (heads, S, E), or (R, heads, S, E) for R photos with F / R frames each.
            values: Like `keys`.

        Returns:
            (F, S, C).
        """
        f, s, c = x.shape
        if keys.ndim == 3:
            keys, values = keys[None], values[None]
        photos = keys.shape[0]
        return self.attn1_5.attend(x.reshape(photos, f // photos * s, c), keys, values).reshape(f, s, c)

    def forward(self, x: Tensor, conditions: Conditions) -> Tensor:
        """Compute the block for x (N, S, C), the images of all halves; the result has the same shape."""
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        uncond, cond = x[: -conditions.frames], x[-conditions.frames :]
        reference_weight = cast(conditions.reference_weight, x.dtype)
        audio_weight = cast(conditions.audio_weight, x.dtype)
        reference = self.reference_attention(self.norm1_5(cond), *conditions.reference[self.name])
        cond = cond + reference_weight * reference
        cond = cond + audio_weight * self.attn2(self.norm2(cond), conditions.tokens)
        if conditions.halves == 1:
            x = cond
        else:
            biases = reference_weight * self.attn1_5.to_out[0].bias + audio_weight * self.attn2.to_out[0].bias
            x = torch.cat([uncond + biases, cond])
        return x + self.ff(self.norm3(x))


class PositionEncoder(nn.Module):
    """The sinusoids of the frame positions, a buffer of the checkpoint: (1, positions, C)."""

    def __init__(self, channels: int, positions: int):
        super().__init__()
        self.register_buffer("pe", sinusoidal_positions(channels, positions))


def sinusoidal_positions(channels: int, positions: int) -> Tensor:
    """Compute the sinusoids of frame positions.

    Args:
        channels: C, even.
        positions: Number of positions.

    Returns:
        (1, positions, C) float32: sines in even channels, cosines in odd ones, of position x 10000^(-2i / C) for the
        i-th pair of channels.
    """
    frequencies = torch.exp(torch.arange(0, channels, 2) * (-math.log(10000.0) / channels))
    angles = torch.arange(positions)[:, None] * frequencies[None, :]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(1, positions, channels)


class TemporalAttention(Attention):
    """Self-attention over the frames, to which the sinusoids of their positions are added."""

    def __init__(self, channels: int, heads: int, positions: int):
        super().__init__(channels, channels, heads)
        self.pos_encoder = PositionEncoder(channels, positions)

    def over_frames(self, x: Tensor) -> Tensor:
        """Attend over frames.

        Args:
            x: (N, F, C), N positions of images.

        Returns:
            (N, F, C).
        """
        x = x + cast(self.pos_encoder.pe[:, : x.shape[1]], x.dtype)
        return self(x, x)


class TemporalBlock(nn.Module):
    """Two temporal self-attentions and a feed-forward."""

    def __init__(self, channels: int, config: UNetConfig):
        super().__init__()
        self.attention_blocks = nn.ModuleList(
            TemporalAttention(channels, config.motion_heads, config.motion_positions) for _ in range(2)
        )
        self.norms = nn.ModuleList(LayerNorm(channels) for _ in range(2))
        self.ff = FeedForward(channels)
        self.ff_norm = LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block for x (N, F, C), N positions of images; the result has the same shape."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = x + attention.over_frames(norm(x))
        return x + self.ff(self.ff_norm(x))


class TemporalTransformer(nn.Module):
    """A temporal block at each position between two linear projections, with a residual connection."""

    def __init__(self, channels: int, config: UNetConfig):
        super().__init__()
        self.norm = GroupNorm(config.groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(channels, config)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Compute the transformer for x (N, C, h, w), N images in groups of `frames`; the result has the same shape."""
        n, c, h, w = x.shape
        halves = n // frames
        hidden = self.norm(x).reshape(halves, frames, c, h * w).permute(0, 3, 1, 2)  # (N, C, h, w) -> (U, S, F, C)
        hidden = self.proj_in(hidden.reshape(halves * h * w, frames, c))
        hidden = self.proj_out(self.transformer_blocks[0](hidden)).reshape(halves, h * w, frames, c)
        return hidden.permute(0, 2, 3, 1).reshape(n, c, h, w) + x  # (U, S, F, C) -> (N, C, h, w)


class MotionModule(nn.Module):
    """A temporal transformer, with the names that checkpoints have."""

    def __init__(self, channels: int, config: UNetConfig):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(channels, config)

    def forward(self, x: Tensor, conditions: Conditions) -> Tensor:
        """Compute the module for x (N, C, h, w); without windows, return x."""
        if conditions.windows == 0:
            return x
        return self.temporal_transformer(x, conditions.frames // conditions.windows)


class DenoisingParts:
    """Makes the transformer blocks and motion modules of the denoising U-Net; see `export.networks.unet.Parts`."""

    def __init__(self, config: UNetConfig):
        self.config = config

    def transformer_block(self, channels: int, name: str) -> nn.Module:
        """Make the transformer block of the attention `name`."""
        return DenoisingBlock(channels, self.config, name)

    def motion_module(self, channels: int) -> nn.Module:
        """Make the motion module after a layer."""
        return MotionModule(channels, self.config)


class DenoisingUNet(UNet):
    """The U-Net that predicts v for a window of latents."""

    def __init__(self, config: UNetConfig, parts: DenoisingParts | None = None):
        """Make the network.

        Args:
            config: Hyper-parameters.
            parts: Makes other blocks than the usual ones, for comparisons.
        """
        super().__init__(config, parts or DenoisingParts(config))
        self.config = config
        self.conv_norm_out = GroupNorm(config.groups, config.block_out_channels[0], config.eps)
        self.conv_out = nn.Conv2d(config.block_out_channels[0], config.in_channels, 3, padding=1)

    def forward(self, latents: Tensor, timestep: Tensor, pose_feature: Tensor, conditions: Conditions) -> Tensor:
        """Predict v.

        Args:
            latents: (F, c, h, w).
            timestep: (1,) float32, or its sinusoid (1, K).
            pose_feature: Output of the guider, (F, K, h, w).
            conditions: Conditions of the frames.

        Returns:
            (halves * F, c, h, w): the unconditional predictions, if there are two halves, then the conditional ones.
        """
        x = self.conv_in(latents)
        # The unconditional half has no keypoint features.
        x = torch.cat([x] * (conditions.halves - 1) + [x + pose_feature])
        x = self.trunk(x, timestep, conditions)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def reference_keys_values(unet: DenoisingUNet, features: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Project the features of the reference network to keys and values of the reference attentions.

    Args:
        unet: The denoising U-Net, whose weights project.
        features: (1, S, C) by the name of the attention.

    Returns:
        Keys and values, each (heads, S, E), by the name of the attention.
    """
    blocks = {m.name: m for m in unet.modules() if isinstance(m, DenoisingBlock)}
    result = {}
    for name, feature in features.items():
        keys, values = blocks[name].attn1_5.keys_values(feature)
        result[name] = (keys[0], values[0])
    return result
