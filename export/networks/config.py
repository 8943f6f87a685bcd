"""Hyper-parameters of the single networks. The defaults are those of the released model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Hyper-parameters of both U-Nets. Levels are counted from the full latent size downwards.

    Attributes:
        in_channels: Channels of a latent.
        block_out_channels: Channels of each level.
        layers_per_block: Resnets of a level on the way down; there is one more on the way up.
        down_attention: Whether each level has attention on the way down.
        up_attention: The same on the way up, in that order.
        heads: Heads of the spatial attentions.
        cross_attention_dim: Size of an audio token.
        groups: Groups of the group normalizations.
        eps: Epsilon of the group normalizations in resnets and before the last convolution.
        motion_heads: Heads of the temporal attentions.
        motion_positions: Longest window in frames.
    """

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
        """Channels of the time embedding."""
        return 4 * self.block_out_channels[0]


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """Hyper-parameters of the autoencoder, which halves the image between levels.

    Attributes:
        latent_channels: Channels of a latent.
        block_out_channels: Channels of each level, from the full image size downwards.
        layers_per_block: Resnets of a level of the encoder; the decoder has one more.
        groups: Groups of the group normalizations.
        scaling_factor: Latents are the encoder's means times this.
    """

    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    groups: int = 32
    scaling_factor: float = 0.18215

    @property
    def factor(self) -> int:
        """Pixels for each latent position, along each side."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True, kw_only=True)
class AudioProjectionConfig:
    """Hyper-parameters of the perceiver that turns audio features into tokens.

    Attributes:
        embedding_dim: Size of an audio feature.
        output_dim: Size of a token.
        dim: Size of a latent of the perceiver.
        depth: Number of layers.
        heads: Heads of an attention.
        dim_head: Size of a head.
        num_queries: Tokens of a frame.
        ff_mult: Hidden size of a feed-forward, as a multiple of `dim`.
        max_seq_len: Audio features of a frame.
    """

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
    """Hyper-parameters of the guider of a spatial signal.

    Attributes:
        channels: Channels of each level, from the first convolution on. The image is halved between levels.
        output: Channels of the last convolution's output.
    """

    channels: tuple[int, ...] = (16, 32, 96, 256)
    output: int = 320
