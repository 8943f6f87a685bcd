"""The U-Net of Stable Diffusion 1.5, which the reference network and the denoising U-Net share.

A `Parts` object makes the modules in which they differ: the transformer block of each attention, and the motion module
after each layer.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.networks.config import UNetConfig
from export.networks.layers import Downsample, GroupNorm, Resnet, TimestepEmbedding, Upsample


class Parts(Protocol):
    """Makes the modules in which the U-Nets differ."""

    def transformer_block(self, channels: int, name: str) -> nn.Module:
        """Make the transformer block of an attention.

        Args:
            channels: C.
            name: Name of the attention, such as "down_blocks.0.attentions.1".

        Returns:
            A module that is called with x (N, S, C) and the conditions, and returns (N, S, C).
        """

    def motion_module(self, channels: int) -> nn.Module | None:
        """Make the motion module after a layer.

        Args:
            channels: C.

        Returns:
            A module that is called with x (N, C, h, w) and the conditions, and returns the same shape; None if the
            U-Net has no motion modules.
        """


class SpatialTransformer(nn.Module):
    """One transformer block over the positions of each image; proj_in and proj_out are 1x1 convolutions."""

    def __init__(self, channels: int, groups: int, block: nn.Module):
        super().__init__()
        self.norm = GroupNorm(groups, channels, 1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, conditions: Any) -> Tensor:
        """Compute the transformer for x (N, C, h, w); the result has the same shape."""
        n, c, h, w = x.shape
        hidden = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).reshape(n, h * w, c)  # (N, C, h, w) -> (N, S, C)
        hidden = self.transformer_blocks[0](hidden, conditions)
        hidden = hidden.reshape(n, h, w, c).permute(0, 3, 1, 2)  # (N, S, C) -> (N, C, h, w)
        return self.proj_out(hidden) + x


class Block(nn.Module):
    """A level: resnets, each followed by an attention and a motion module if the level has them."""

    def __init__(
        self, config: UNetConfig, parts: Parts, name: str, widths: list[tuple[int, int]], attends: bool,
        resample: nn.Module | None, resample_name: str,
    ):  # fmt: skip
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(i, o, config.groups, config.eps, config.time_channels) for i, o in widths)
        if attends:
            self.attentions = nn.ModuleList(
                SpatialTransformer(o, config.groups, parts.transformer_block(o, f"{name}.attentions.{layer}"))
                for layer, (_, o) in enumerate(widths)
            )
        motions = [parts.motion_module(o) for _, o in widths]
        if motions[0] is not None:
            self.motion_modules = nn.ModuleList(motions)
        if resample is not None:
            self.add_module(resample_name, nn.ModuleList([resample]))

    def layer(self, index: int, x: Tensor, time: Tensor, conditions: Any) -> Tensor:
        """Compute a resnet with its attention and motion module.

        Args:
            index: Index of the resnet.
            x: (N, C, h, w).
            time: SiLU of the time embedding, (1, T).
            conditions: Passed to the transformer block and the motion module.

        Returns:
            (N, C', h, w).
        """
        x = self.resnets[index](x, time)
        if hasattr(self, "attentions"):
            x = self.attentions[index](x, conditions)
        if hasattr(self, "motion_modules"):
            x = self.motion_modules[index](x, conditions)
        return x


class MiddleBlock(nn.Module):
    """Resnet, attention, motion module, resnet."""

    def __init__(self, config: UNetConfig, parts: Parts):
        super().__init__()
        channels = config.block_out_channels[-1]
        block = parts.transformer_block(channels, "mid_block.attentions.0")
        self.attentions = nn.ModuleList([SpatialTransformer(channels, config.groups, block)])
        self.resnets = nn.ModuleList(
            Resnet(channels, channels, config.groups, config.eps, config.time_channels) for _ in range(2)
        )
        if (motion := parts.motion_module(channels)) is not None:
            self.motion_modules = nn.ModuleList([motion])

    def forward(self, x: Tensor, time: Tensor, conditions: Any) -> Tensor:
        """Compute the block for x (N, C, h, w); `time` is the SiLU of the time embedding, (1, T)."""
        x = self.attentions[0](self.resnets[0](x, time), conditions)
        if hasattr(self, "motion_modules"):
            x = self.motion_modules[0](x, conditions)
        return self.resnets[1](x, time)


class UNet(nn.Module):
    """The U-Net without its last normalization and convolution."""

    def __init__(self, config: UNetConfig, parts: Parts):
        super().__init__()
        widths, layers = config.block_out_channels, config.layers_per_block
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0])
        skips = [widths[0]]
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        channels = widths[0]
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            pairs = [(channels if layer == 0 else width, width) for layer in range(layers)]
            down = None if last else Downsample(width)
            self.down_blocks.append(
                Block(config, parts, f"down_blocks.{level}", pairs, config.down_attention[level], down, "downsamplers")
            )
            skips += [width] * (layers if last else layers + 1)
            channels = width
        self.mid_block = MiddleBlock(config, parts)
        for index, width in enumerate(reversed(widths)):
            pairs = [((channels if layer == 0 else width) + skips.pop(), width) for layer in range(layers + 1)]
            up = None if index == len(widths) - 1 else Upsample(width)
            self.up_blocks.append(
                Block(config, parts, f"up_blocks.{index}", pairs, config.up_attention[index], up, "upsamplers")
            )
            channels = width

    def trunk(self, x: Tensor, timestep: Tensor, conditions: Any) -> Tensor:
        """Compute all levels.

        Args:
            x: Output of `conv_in`, (N, K, h, w).
            timestep: (1,) float32, or its sinusoid (1, K).
            conditions: Passed to the transformer blocks and the motion modules.

        Returns:
            (N, K, h, w).
        """
        time = F.silu(self.time_embedding(timestep))
        skips = [x]
        for block in self.down_blocks:
            for layer in range(len(block.resnets)):
                x = block.layer(layer, x, time, conditions)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block(x, time, conditions)
        for block in self.up_blocks:
            for layer in range(len(block.resnets)):
                x = block.layer(layer, torch.cat([x, skips.pop()], dim=1), time, conditions)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0](x, tuple(skips[-1].shape[-2:]))
        return x
