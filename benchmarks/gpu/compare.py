"""Compare results on a GPU with those of the CPU."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

PSNR_LEAST = 40.0  # dB, least PSNR of float16 frames against the CPU's float32 frames
ANOTHER_ORDER = 1e-3  # allowed relative error in float32: kernels sum in different orders


def psnr(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio in dB: 10 log10(255^2 / mean square error).

    Args:
        found: Pictures of any shape, uint8.
        expected: Pictures of the same shape, uint8.

    Returns:
        dB; infinite for equal pictures.

    Raises:
        ValueError: Another dtype, or different shapes.
    """
    if found.dtype != np.uint8 or expected.dtype != np.uint8 or found.shape != expected.shape:
        raise ValueError(
            f"pictures of {found.dtype} {found.shape} and {expected.dtype} {expected.shape}; "
            "expected uint8 of one shape"
        )
    error = float(np.mean((found.astype(np.float32) - expected.astype(np.float32)) ** 2, dtype=np.float64))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def worst_frame(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Return the least PSNR, in dB, of the frames of a clip (L, H, W, 3) uint8."""
    return min(psnr(one, other) for one, other in zip(found, expected, strict=True))
