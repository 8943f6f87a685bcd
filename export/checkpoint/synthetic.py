"""Synthetic weights: a formula of each tensor's name, so that nothing needs to be stored.

The formula is the goldens' (tests/golden): standard normal values from a generator that is seeded by the
component and the tensor, scaled so that activations neither vanish nor explode.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from numpy.typing import NDArray

MATRIX_DIMS = 2


def synthetic_tensor(seed: int, component: str, key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The float32 values of tensor `key` of `component`."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{component}.{key}".encode())])
    values = rng.standard_normal(shape).astype(np.float32)
    if len(shape) >= MATRIX_DIMS:
        scale = 0.1 if key == "latents" or "pos_emb" in key else 1 / math.sqrt(math.prod(shape[1:]))
        return (values * scale).astype(np.float32)
    if key.endswith(("weight", "weight_g", "original0")):
        return (1 + 0.1 * values).astype(np.float32)
    return (0.05 * values).astype(np.float32)
