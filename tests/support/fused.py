"""Functions that ONNX Runtime's CPU kernels have a form of their own for, and what to call them with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from export.networks.layers import doubled_conv, gated_linear, multi_head_attention

# Composite function, by its name -> cases: a function of inputs and parameters, shapes of both.
COMPOSITES: dict[str, list[tuple[Callable[..., Any], list[tuple[int, ...]], list[tuple[int, ...]]]]] = {
    "multi_head_attention": [
        (lambda q, k, v: multi_head_attention(q, k, v, 2), [(3, 5, 8), (3, 7, 8), (3, 7, 8)], []),
        (lambda q, k, v: multi_head_attention(q, k, v, 3), [(1, 70, 12), (1, 3, 40, 4), (1, 3, 40, 4)], []),
        (lambda x: multi_head_attention(x, x, x, 1), [(2, 1, 6)], []),
    ],
    "gated_linear": [(gated_linear, [(2, 3, 5)], [(12, 5), (12,)])],
    "doubled_conv": [
        (doubled_conv, [(2, 3, 4, 5)], [(6, 3, 3, 3), (6,)]),
        (doubled_conv, [(1, 4, 1, 1)], [(2, 4, 3, 3), (2,)]),
    ],
}
