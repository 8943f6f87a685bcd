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
    """What every block of the U-Net may look at.

    Pictures come as rows of a batch: first `halves - 1` windows of unconditional frames, then one of conditional ones,
    each of `frames` rows.
    reference: keys and values (heads, S, E) by attention site.  tokens: (F, Q, D).  Weights: (1,) or scalars.
    windows: in training `frames` rows are those of several windows, one after the other, and references are
    (windows, heads, S, E); 0: of single pictures, for which there is no motion.
    """

    frames: int
    halves: int
    reference: Mapping[str, tuple[Tensor, Tensor]]
    tokens: Tensor
    reference_weight: Tensor
    audio_weight: Tensor
    windows: int = 1


class DenoisingBlock(nn.Module):
    """Self-attention, attention to the photo, attention to the voice, feed-forward.

    The unconditional half sees zero reference features and zero tokens; k and v have no bias, so both attentions give
    their output bias there and nothing of them is computed.
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
        """x: (F, S, C); keys, values: (heads, S, E), or (R, heads, S, E) for R photos, each with F / R of the frames.

        Frames of a photo share its keys, so they fold into the queries.
        """
        f, s, c = x.shape
        if keys.ndim == 3:
            keys, values = keys[None], values[None]
        photos = keys.shape[0]
        return self.attn1_5.attend(x.reshape(photos, f // photos * s, c), keys, values).reshape(f, s, c)

    def forward(self, x: Tensor, conditions: Conditions) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        silent, heard = x[: -conditions.frames], x[-conditions.frames :]
        reference_weight = cast(conditions.reference_weight, x.dtype)
        audio_weight = cast(conditions.audio_weight, x.dtype)
        reference = self.reference_attention(self.norm1_5(heard), *conditions.reference[self.name])
        heard = heard + reference_weight * reference
        heard = heard + audio_weight * self.attn2(self.norm2(heard), conditions.tokens)
        if conditions.halves == 1:
            x = heard
        else:
            biases = reference_weight * self.attn1_5.to_out[0].bias + audio_weight * self.attn2.to_out[0].bias
            x = torch.cat([silent + biases, heard])
        return x + self.ff(self.norm3(x))


class PositionEncoder(nn.Module):
    """The table of frame positions, a buffer of the checkpoint: (1, positions, C)."""

    def __init__(self, channels: int, positions: int):
        super().__init__()
        self.register_buffer("pe", sinusoidal_positions(channels, positions))


def sinusoidal_positions(channels: int, positions: int) -> Tensor:
    """(1, positions, C): even channels sine, odd ones cosine of position x 10000^(-2i / C) for pair i."""
    frequencies = torch.exp(torch.arange(0, channels, 2) * (-math.log(10000.0) / channels))
    angles = torch.arange(positions)[:, None] * frequencies[None, :]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(1, positions, channels)


class TemporalAttention(Attention):
    """Self-attention over the frames, after their positions were added."""

    def __init__(self, channels: int, heads: int, positions: int):
        super().__init__(channels, channels, heads)
        self.pos_encoder = PositionEncoder(channels, positions)

    def over_frames(self, x: Tensor) -> Tensor:
        """x: (N, F, C) -> (N, F, C)."""
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
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = x + attention.over_frames(norm(x))
        return x + self.ff(self.ff_norm(x))


class TemporalTransformer(nn.Module):
    """Attention over the frames at each position, between two linear projections, plus a residual."""

    def __init__(self, channels: int, config: UNetConfig):
        super().__init__()
        self.norm = GroupNorm(config.groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(channels, config)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        n, c, h, w = x.shape
        halves = n // frames
        hidden = self.norm(x).reshape(halves, frames, c, h * w).permute(0, 3, 1, 2)  # (N, C, h, w) -> (U, S, F, C)
        hidden = self.proj_in(hidden.reshape(halves * h * w, frames, c))
        hidden = self.proj_out(self.transformer_blocks[0](hidden)).reshape(halves, h * w, frames, c)
        return hidden.permute(0, 2, 3, 1).reshape(n, c, h, w) + x  # (U, S, F, C) -> (N, C, h, w)


class MotionModule(nn.Module):
    """The checkpoint's wrapper around a temporal transformer."""

    def __init__(self, channels: int, config: UNetConfig):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(channels, config)

    def forward(self, x: Tensor, conditions: Conditions) -> Tensor:
        if conditions.windows == 0:
            return x
        return self.temporal_transformer(x, conditions.frames // conditions.windows)


class DenoisingParts:
    """What the denoising U-Net puts into the skeleton's places."""

    def __init__(self, config: UNetConfig):
        self.config = config

    def transformer_block(self, channels: int, name: str) -> nn.Module:
        """For the attention site `name`."""
        return DenoisingBlock(channels, self.config, name)

    def motion_module(self, channels: int) -> nn.Module:
        """Behind a layer of so many channels."""
        return MotionModule(channels, self.config)


class DenoisingUNet(UNet):
    """Predicts v for a window of latents. parts: in place of the usual ones."""

    def __init__(self, config: UNetConfig, parts: DenoisingParts | None = None):
        super().__init__(config, parts or DenoisingParts(config))
        self.config = config
        self.conv_norm_out = GroupNorm(config.groups, config.block_out_channels[0], config.eps)
        self.conv_out = nn.Conv2d(config.block_out_channels[0], config.in_channels, 3, padding=1)

    def forward(self, latents: Tensor, timestep: Tensor, pose_feature: Tensor, conditions: Conditions) -> Tensor:
        """latents: (F, c, h, w), timestep: (1,), pose_feature: (F, K, h, w) -> (halves * F, c, h, w)."""
        x = self.conv_in(latents)
        # The unconditional half differs from the first layer on: it has no keypoints.
        x = torch.cat([x] * (conditions.halves - 1) + [x + pose_feature])
        x = self.trunk(x, timestep, conditions)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def reference_keys_values(unet: DenoisingUNet, features: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Features (1, S, C) of ReferenceNet -> keys and values (heads, S, E), both by site, as the U-Net projects them."""
    blocks = {m.name: m for m in unet.modules() if isinstance(m, DenoisingBlock)}
    result = {}
    for name, feature in features.items():
        keys, values = blocks[name].attn1_5.keys_values(feature)
        result[name] = (keys[0], values[0])
    return result
