"""The perceiver that turns a frame's audio features into a few tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.networks.config import AudioProjectionConfig
from export.networks.layers import LayerNorm, merge_heads, split_heads


class PerceiverAttention(nn.Module):
    """Attention with queries from the latents, and keys and values from inputs and latents together."""

    def __init__(self, dim: int, heads: int, dim_head: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """Compute the attention.

        Args:
            x: Inputs, (N, R, dim).
            latents: (N, Q, dim).

        Returns:
            (N, Q, dim).
        """
        x, latents = self.norm1(x), self.norm2(latents)
        keys, values = self.to_kv(torch.cat([x, latents], dim=1)).chunk(2, dim=-1)
        queries, keys, values = (split_heads(t, self.heads) for t in (self.to_q(latents), keys, values))
        return self.to_out(merge_heads(F.scaled_dot_product_attention(queries, keys, values)))


def _feed_forward(dim: int, mult: int) -> nn.Sequential:
    return nn.Sequential(
        LayerNorm(dim), nn.Linear(dim, mult * dim, bias=False), nn.GELU(), nn.Linear(mult * dim, dim, bias=False)
    )


class AudioProjection(nn.Module):
    """Windows of audio features (N, R, A) -> tokens (N, Q, D)."""

    def __init__(self, config: AudioProjectionConfig):
        super().__init__()
        dim = config.dim
        self.latents = nn.Parameter(torch.empty(1, config.num_queries, dim))
        self.pos_emb = nn.Embedding(config.max_seq_len, config.embedding_dim)
        self.proj_in = nn.Linear(config.embedding_dim, dim)
        self.proj_out = nn.Linear(dim, config.output_dim)
        self.norm_out = LayerNorm(config.output_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(dim, config.heads, config.dim_head), _feed_forward(dim, config.ff_mult)])
            for _ in range(config.depth)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Project windows of audio features (N, R, A) to tokens (N, Q, D)."""
        x = self.proj_in(features + self.pos_emb.weight)
        latents = self.latents.expand(features.shape[0], -1, -1)
        for attention, feed_forward in self.layers:
            latents = latents + attention(x, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))
