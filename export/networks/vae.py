"""The autoencoder of Stable Diffusion (sd-vae-ft-mse) as two networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.networks.config import VaeConfig
from export.networks.layers import Downsample, GroupNorm, Resnet, Upsample, cast

EPS = 1e-6


class VaeAttention(nn.Module):
    """Attention with one head over all positions; q, k and v have biases."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Attend for x (N, C, h, w), with a residual connection; the result has the same shape."""
        n, c, h, w = x.shape
        hidden = self.group_norm(x).reshape(n, 1, c, h * w).transpose(2, 3)  # (N, C, h, w) -> (N, 1, S, C)
        hidden = F.scaled_dot_product_attention(self.to_q(hidden), self.to_k(hidden), self.to_v(hidden))
        return self.to_out[0](hidden).transpose(2, 3).reshape(n, c, h, w) + x  # (N, 1, S, C) -> (N, C, h, w)


class _Middle(nn.Module):
    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.attentions = nn.ModuleList([VaeAttention(channels, groups)])
        self.resnets = nn.ModuleList(Resnet(channels, channels, groups, EPS) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class _Level(nn.Module):
    def __init__(self, inputs: int, outputs: int, layers: int, groups: int):
        super().__init__()
        self.resnets = nn.ModuleList(
            Resnet(inputs if layer == 0 else outputs, outputs, groups, EPS) for layer in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return x


class _Encoder(nn.Module):
    def __init__(self, config: VaeConfig):
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            block = _Level(widths[max(level - 1, 0)], width, config.layers_per_block, config.groups)
            if level < len(widths) - 1:
                block.downsamplers = nn.ModuleList([Downsample(width, one_sided=True)])
            self.down_blocks.append(block)
        self.mid_block = _Middle(widths[-1], config.groups)
        self.conv_norm_out = GroupNorm(config.groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class _Decoder(nn.Module):
    def __init__(self, config: VaeConfig):
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = _Middle(widths[0], config.groups)
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            block = _Level(widths[max(level - 1, 0)], width, config.layers_per_block + 1, config.groups)
            if level < len(widths) - 1:
                block.upsamplers = nn.ModuleList([Upsample(width)])
            self.up_blocks.append(block)
        self.conv_norm_out = GroupNorm(config.groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0](x, (2 * x.shape[2], 2 * x.shape[3]))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class VaeEncoder(nn.Module):
    """Image (1, 3, H, W) in [-1, 1] -> scaled mean of the latent distribution, (1, c, h, w) float32."""

    def __init__(self, config: VaeConfig):
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Encode an image (1, 3, H, W) in [-1, 1] to a scaled mean latent (1, c, h, w) float32."""
        moments = self.quant_conv(self.encoder(image))
        # In float32: a factor in bfloat16 would be off by up to 0.4 %, and with it every latent.
        return cast(moments[:, : self.config.latent_channels], torch.float32) * self.config.scaling_factor


class VaeDecoder(nn.Module):
    """Scaled latent (1, c, h, w) float32 -> image (1, 3, H, W), nominally in [-1, 1]."""

    def __init__(self, config: VaeConfig):
        super().__init__()
        self.config = config
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = _Decoder(config)

    def forward(self, latent: Tensor) -> Tensor:
        """Decode a scaled latent (1, c, h, w) float32 to an image (1, 3, H, W)."""
        scaled = latent / self.config.scaling_factor
        return self.decoder(self.post_quant_conv(cast(scaled, self.post_quant_conv.weight.dtype)))
