"""Layers that several networks share, with the attribute names of the released checkpoints.

Weights and activations may be float16 or bfloat16. The statistics of normalizations, the softmax of attentions and the
sinusoid of the timestep are always computed in float32.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a tensor. Nothing is traced if it already has the dtype.

    Args:
        x: Any shape.
        dtype: Dtype of the result.
    """
    return x if x.dtype == dtype else x.to(dtype)


class GroupNorm(nn.GroupNorm):
    """Group normalization with float32 statistics."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (N, C, ...); the result has the same shape and dtype."""
        weight, bias = cast(self.weight, torch.float32), cast(self.bias, torch.float32)
        return cast(F.group_norm(cast(x, torch.float32), self.num_groups, weight, bias, self.eps), x.dtype)


class LayerNorm(nn.LayerNorm):
    """Layer normalization over the last dim with float32 statistics."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (..., C); the result has the same shape and dtype."""
        weight, bias = cast(self.weight, torch.float32), cast(self.bias, torch.float32)
        return cast(F.layer_norm(cast(x, torch.float32), self.normalized_shape, weight, bias, self.eps), x.dtype)


def composite(function: Any) -> Any:
    """Make a function composite: `export.onnx.trace` can record a call of it as one, for targets with a fused form.

    Args:
        function: Takes positional arguments, at least one of them a tensor.

    Returns:
        The composite function.
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        tensors = [x for x in args if isinstance(x, Tensor)]
        if has_torch_function(tensors):  # also while a TorchFunctionMode is active
            return handle_torch_function(call, tensors, *args)
        return function(*args)

    call.composite = True
    return call


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape (N, S, C) to (N, heads, S, C / heads).

    Args:
        x: (N, S, C).
        heads: Number of heads.
    """
    n, s, c = x.shape
    return x.reshape(n, s, heads, c // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Reshape (N, heads, S, E) to (N, S, heads * E).

    Args:
        x: (N, heads, S, E).
    """
    n, heads, s, e = x.shape
    return x.transpose(1, 2).reshape(n, s, heads * e)


@composite
def multi_head_attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Compute multi-head attention.

    Args:
        queries: (N, Q, C).
        keys: (N, S, C), or already split into heads: (N, heads, S, E).
        values: Like `keys`.
        heads: Number of heads.

    Returns:
        (N, Q, C).
    """
    split = [x if x.ndim > queries.ndim else split_heads(x, heads) for x in (keys, values)]
    return merge_heads(F.scaled_dot_product_attention(split_heads(queries, heads), *split))


@composite
def gated_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute a GEGLU layer.

    Args:
        x: (..., C).
        weight: (2 D, C), first of the value, then of the gate, which goes through an erf GELU.
        bias: (2 D,).

    Returns:
        (..., D).
    """
    value, gate = F.linear(x, weight, bias).chunk(2, dim=-1)
    return value * F.gelu(gate)


@composite
def doubled_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Upsample by 2 with nearest neighbours, then convolve with padding 1.

    Args:
        x: (N, C, h, w).
        weight: (C', C, 3, 3).
        bias: (C',).

    Returns:
        (N, C', 2 h, 2 w).
    """
    height, width = x.shape[2:]
    return F.conv2d(F.interpolate(x, size=(2 * height, 2 * width), mode="nearest"), weight, bias, padding=1)


class Attention(nn.Module):
    """Multi-head attention; q, k and v have no bias, the output projection `to_out.0` has one."""

    def __init__(self, channels: int, context_channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Project a context to keys and values.

        Args:
            context: (N, S, C').

        Returns:
            Keys and values, each (N, heads, S, E).
        """
        return split_heads(self.to_k(context), self.heads), split_heads(self.to_v(context), self.heads)

    def attend(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend to given keys and values.

        Args:
            x: (N, Q, C), from which the queries are projected.
            keys: (N, S, C) or (N, heads, S, E).
            values: Like `keys`.

        Returns:
            (N, Q, C).
        """
        return self.to_out[0](multi_head_attention(self.to_q(x), keys, values, self.heads))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend from x (N, Q, C) to a context (N, S, C'); the result is (N, Q, C)."""
        return self.attend(x, self.to_k(context), self.to_v(context))


class _Gate(nn.Module):
    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        return gated_linear(x, self.proj.weight, self.proj.bias)


class FeedForward(nn.Module):
    """GEGLU and a linear layer; see `gated_linear`."""

    def __init__(self, channels: int):
        super().__init__()
        self.net = nn.ModuleList([_Gate(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layers for x (..., C); the result has the same shape."""
        for layer in self.net:
            x = layer(x)
        return x


def timestep_sinusoid(timestep: Tensor, channels: int) -> Tensor:
    """Compute the sinusoid of a timestep.

    Args:
        timestep: (1,) float32.
        channels: Number of values, even.

    Returns:
        (1, channels) float32, cosines first.
    """
    half = channels // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10000) / half))
    angles = timestep[:, None] * frequencies[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Two linear layers on the sinusoid of the timestep."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.linear_1 = nn.Linear(channels, 4 * channels)
        self.linear_2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, timestep: Tensor) -> Tensor:
        """Embed a timestep (1,) float32, or its sinusoid (1, channels); the result is (1, 4 channels)."""
        sinusoid = timestep if timestep.ndim == 2 else timestep_sinusoid(timestep, self.channels)
        return self.linear_2(F.silu(self.linear_1(cast(sinusoid, self.linear_1.weight.dtype))))


class Resnet(nn.Module):
    """Two normalized convolutions with the projected time embedding in between (not in the VAE), and a shortcut."""

    def __init__(self, inputs: int, outputs: int, groups: int, eps: float, time_channels: int | None = None):
        super().__init__()
        self.norm1 = GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        if time_channels is not None:
            self.time_emb_proj = nn.Linear(time_channels, outputs)
        self.norm2 = GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Compute the block.

        Args:
            x: (N, C, h, w).
            time: SiLU of the time embedding, (1, T).

        Returns:
            (N, C', h, w).
        """
        hidden = self.conv1(F.silu(self.norm1(x)))
        if time is not None:
            projected = self.time_emb_proj(cast(time, self.time_emb_proj.weight.dtype))
            hidden = hidden + projected[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Downsample(nn.Module):
    """Convolution with stride 2. The VAE pads only right and below, the U-Nets on all sides."""

    def __init__(self, channels: int, *, one_sided: bool = False):
        super().__init__()
        self.one_sided = one_sided
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if one_sided else 1)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the size of x (N, C, h, w)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.one_sided else x)


class Upsample(nn.Module):
    """Resize to exactly `size` (height, width) with nearest neighbours, then convolve."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize x (N, C, h, w) to `size`, and convolve."""
        if size == (2 * x.shape[2], 2 * x.shape[3]):
            return doubled_conv(x, self.conv.weight, self.conv.bias)
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


def to_precision(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast the matrices and convolutions of a module; normalizations and timestep embedding stay float32.

    Args:
        module: It is changed.
        dtype: Dtype of the matrices.

    Returns:
        `module`.
    """
    for child in module.modules():
        if isinstance(child, (GroupNorm, LayerNorm, TimestepEmbedding)):
            continue
        for name, parameter in list(child.named_parameters(recurse=False)):
            setattr(child, name, nn.Parameter(parameter.to(dtype), requires_grad=False))
    for child in module.modules():
        if isinstance(child, TimestepEmbedding):
            child.float()
    return module
