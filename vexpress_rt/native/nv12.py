"""RGB frames -> NV12, the input of video encoders on GPUs: the reference implementation of the CUDA kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import InputError
from vexpress_rt.native.median import check_frames
from vexpress_rt.types import UInt8

# ITU-R BT.709-6, item 3.2, in ten-thousandths: the weights of red, green, blue in luma; the spans of B - Y and R - Y.
_LUMA = np.array([2126, 7152, 722])
_SPANS = {"blue": (2, 18556), "red": (0, 15748)}  # channel, span
_WEIGHT_SUM = 8  # of the pixels in a chroma sample


def check_even(height: int, width: int) -> None:
    """Raise InputError unless both sides are even and at least 2, because a chroma sample is for 2 x 2 pixels.

    Args:
        height: Rows of the picture.
        width: Columns of the picture.
    """
    if height < 2 or width < 2 or height % 2 or width % 2:
        raise InputError(f"a picture of {height} x {width} pixels (height x width); NV12 takes even sizes above 0")


def rgb_to_nv12_numpy(frame: UInt8) -> UInt8:
    """Convert RGB in BT.709, full range, to NV12 in limited range: luma 16 to 235, chroma 16 to 240.

    Chroma is sited left, the default of H.264: sample i of row j lies on column 2i, halfway between rows 2j and 2j + 1.
    It is the mean of those rows, with the columns 2i - 1, 2i and 2i + 1 weighted 1, 2, 1; left of the picture the first
    column is repeated. Each value is the exact one rounded to the nearest integer, halves up (BT.709-6, item 3.4).
    FFmpeg, which converts frames on the CPU, sites chroma in the same place but averages more pixels.

    Args:
        frame: (H, W, 3) uint8 RGB, H and W even.

    Returns:
        (H * 3 / 2, W) uint8: H rows of luma, then H / 2 rows of chroma, blue and red interleaved.

    Raises:
        InputError: `frame` has another shape or dtype, or an odd height or width.
    """
    rgb = check_frames("frame", frame, ("H", "W", "3")).astype(np.int64)
    height, width = rgb.shape[:2]
    check_even(height, width)
    luma = _nearest(16, 219 * (rgb @ _LUMA), 10_000 * 255)
    padded = np.pad(rgb, ((0, 0), (1, 0), (0, 0)), mode="edge")
    across = padded[:, 0:-1:2] + 2 * padded[:, 1::2] + padded[:, 2::2]
    pixels = across[0::2] + across[1::2]  # (H / 2, W / 2, 3), weighted sums
    chroma = [
        _nearest(128, 224 * (10_000 * pixels[..., channel] - pixels @ _LUMA), span * 255 * _WEIGHT_SUM)
        for channel, span in _SPANS.values()
    ]
    return np.concatenate([luma, np.stack(chroma, axis=-1).reshape(height // 2, width)])


def _nearest(offset: int, numerator: NDArray[np.int64], denominator: int) -> UInt8:
    """Return offset + numerator / denominator, rounded to the nearest integer, halves up."""
    return ((2 * (offset * denominator + numerator) + denominator) // (2 * denominator)).astype(np.uint8)
