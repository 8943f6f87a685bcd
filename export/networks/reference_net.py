"""The reference network: a 2D U-Net on the photo. Its results are the inputs of its cross-attentions."""

from __future__ import annotations

from torch import Tensor, nn

from export.networks.config import UNetConfig
from export.networks.layers import Attention, FeedForward, LayerNorm
from export.networks.unet import UNet


class ReferenceBlock(nn.Module):
    """A transformer block that records norm2(x + attn1(norm1(x))) in `features`.

    The text context is zero and the projections of keys and values have no bias, so `attn2` equals its output bias.
    """

    def __init__(self, channels: int, config: UNetConfig, name: str):
        super().__init__()
        self.name = name
        self.norm1, self.norm2, self.norm3 = LayerNorm(channels), LayerNorm(channels), LayerNorm(channels)
        self.attn1 = Attention(channels, channels, config.heads)
        self.attn2 = Attention(channels, config.cross_attention_dim, config.heads)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, features: dict[str, Tensor]) -> Tensor:
        """Compute the block for x (N, S, C), and record its feature in `features`; the result has the same shape."""
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        features[self.name] = self.norm2(x)
        x = x + self.attn2.to_out[0].bias
        return x + self.ff(self.norm3(x))


class _ReferenceParts:
    def __init__(self, config: UNetConfig):
        self.config = config

    def transformer_block(self, channels: int, name: str) -> nn.Module:
        return ReferenceBlock(channels, self.config, name)

    def motion_module(self, channels: int) -> None:
        return None


class ReferenceNet(UNet):
    """Latent (1, c, h, w) and timestep (1,) -> features (1, S, C) by the name of the attention."""

    def __init__(self, config: UNetConfig):
        super().__init__(config, _ReferenceParts(config))
        # Unused, but the released file has its tensors.
        self.conv_out = nn.Conv2d(config.block_out_channels[0], config.in_channels, 3, padding=1)

    def forward(self, latent: Tensor, timestep: Tensor) -> dict[str, Tensor]:
        """Return the features (1, S, C) of a latent (1, c, h, w) by the name of the attention; timestep (1,)."""
        features: dict[str, Tensor] = {}
        self.trunk(self.conv_in(latent), timestep, features)
        return features


def is_unused(key: str, config: UNetConfig) -> bool:
    """Return whether no feature depends on a tensor, so that a checkpoint may lack it.

    Args:
        key: Name of the tensor in the state dict of `ReferenceNet`.
        config: Hyper-parameters of the network.
    """
    if key.startswith("conv_out.") or ".attn2.to_q." in key or ".attn2.to_k." in key or ".attn2.to_v." in key:
        return True
    last = f"up_blocks.{len(config.block_out_channels) - 1}.attentions.{config.layers_per_block}."
    after = ("transformer_blocks.0.attn2.", "transformer_blocks.0.norm3.", "transformer_blocks.0.ff.", "proj_out.")
    return config.up_attention[-1] and key.startswith(last) and key[len(last) :].startswith(after)
