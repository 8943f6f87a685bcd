"""How far results on a GPU are from those of the CPU."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

PSNR_LEAST = 40.0  # dB that frames in float16 must reach against the CPU's in float32
ANOTHER_ORDER = 1e-3  # relative error allowed in float32: other kernels add in another order


def psnr(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of pictures of bytes, in dB: 10 log10(255^2 / mean square error).

    Infinite where they are equal. Raises ValueError for other dtypes or different shapes.
    """
    if found.dtype != np.uint8 or expected.dtype != np.uint8 or found.shape != expected.shape:
        raise ValueError(
            f"pictures of {found.dtype} {found.shape} and {expected.dtype} {expected.shape}; "
            "expected uint8 of one shape"
        )
    error = float(np.mean((found.astype(np.float32) - expected.astype(np.float32)) ** 2, dtype=np.float64))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def worst_frame(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """The least PSNR of the frames of a clip (L, H, W, 3), in dB."""
    return min(psnr(one, other) for one, other in zip(found, expected, strict=True))
