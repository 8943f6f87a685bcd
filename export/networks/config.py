"""Hyper-parameters of the networks, as the checkpoint's configuration files give them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Of both U-Nets. Levels are counted from the full latent downwards."""

    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    down_attention: tuple[bool, ...] = (True, True, True, False)
    up_attention: tuple[bool, ...] = (False, True, True, True)
    heads: int = 8
    cross_attention_dim: int = 768
    groups: int = 32
    eps: float = 1e-5
    motion_heads: int = 8
    motion_positions: int = 32

    @property
    def time_channels(self) -> int:
        """Width of the time embedding."""
        return 4 * self.block_out_channels[0]


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """Of the autoencoder; it halves the picture once between neighbouring levels."""

    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    groups: int = 32
    scaling_factor: float = 0.18215

    @property
    def factor(self) -> int:
        """Pixels a latent, along each side."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True, kw_only=True)
class AudioProjectionConfig:
    """Of the perceiver that turns audio features into tokens."""

    embedding_dim: int = 768
    output_dim: int = 768
    dim: int = 768
    depth: int = 4
    heads: int = 12
    dim_head: int = 64
    num_queries: int = 5
    ff_mult: int = 4
    max_seq_len: int = 10


@dataclass(frozen=True, kw_only=True)
class GuiderConfig:
    """Of the V-Kps guider: a convolution to channels[0], one halving between neighbours, one to `output`."""

    channels: tuple[int, ...] = (16, 32, 96, 256)
    output: int = 320
