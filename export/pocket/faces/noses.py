"""Find the nose in an image, by comparison with a drawing of the same person in about the same pose."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pocket.faces.portrait import Drawing
from export.pocket.faces.poses import EYE_X

REACH = 0.45  # largest distance of the nose in each direction, in half face widths: 12 pixels of 128

_AIM = 0.2  # centre of the compared region, from the nose's tip towards the middle of the eyes
# Width of the Gaussian weights in half face widths: little more than the nose, because the eyes move less than it.
_WIDTH = 0.2
_FLAT = 1e-3  # smallest variance of an image


def nose_place(image: NDArray[np.uint8], example: Drawing) -> NDArray[np.float64]:
    """Find the tip of the nose by weighted normalized correlation, with subpixel precision.

    Args:
        image: (H, W, 3) uint8 RGB.
        example: The same person in an image of the same size, whose nose is at most `REACH` away.

    Returns:
        x, then y in pixels, (2,). If the nose is farther away or hidden, some position within `REACH`.
    """
    eyes, nose = example.keypoints[:2].mean(axis=0), example.keypoints[2].astype(float)
    unit = float(np.hypot(*(example.keypoints[1] - example.keypoints[0]))) / (2 * EYE_X)
    half, reach = round(2 * _WIDTH * unit), round(REACH * unit)
    aim = nose + _AIM * (eyes - nose)
    known, found = _cut(example.image, aim, half), _cut(image, aim, half + reach)
    likeness = _likeness(known, found, _WIDTH * unit)
    y, x = (int(i) for i in np.unravel_index(np.argmax(likeness), likeness.shape))
    offset = (x + _peak(likeness[y], x) - reach, y + _peak(likeness[:, x], y) - reach)
    place: NDArray[np.float64] = nose + offset
    return place


def _likeness(known: NDArray[np.float32], found: NDArray[np.float32], width: float) -> NDArray[np.float64]:
    """Correlate `known` (n, n, 3) with each position of `found` (n + 2 r, n + 2 r, 3): (2 r + 1, 2 r + 1)."""
    half = known.shape[0] // 2
    bell = cv2.getGaussianKernel(2 * half + 1, width)
    weights = bell @ bell.T

    def summed(values: Any, by: NDArray[np.float64]) -> NDArray[np.float64]:
        # One channel at a time, because OpenCV's filter takes one kernel for all channels.
        parts = [cv2.filter2D(values[..., c], cv2.CV_64F, by[..., c]) for c in range(3)]
        return np.asarray(np.stack(parts, axis=-1)[half:-half, half:-half], float)

    each = np.repeat(weights[..., None], 3, axis=-1)
    shape = known - np.average(known, axis=(0, 1), weights=weights)
    level = found - found.mean(axis=(0, 1))
    varied = (summed(level * level, each) - summed(level, each) ** 2).sum(axis=-1)
    own = float((each * shape * shape).sum())
    together = summed(level, each * shape).sum(axis=-1)
    return np.asarray(together / np.sqrt(np.maximum(varied, _FLAT) * max(own, _FLAT)))


def _cut(image: NDArray[np.uint8], middle: NDArray[np.float64], half: int) -> NDArray[np.float32]:
    """Cut the region around `middle`, which may be between pixels: (2 half + 1, 2 half + 1, 3)."""
    steps = np.arange(-half, half + 1)
    x, y = (np.float32(steps + centre) for centre in middle)
    grid = np.meshgrid(x, y)
    cut = cv2.remap(image.astype(np.float32), *grid, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.float32)


def _peak(values: NDArray[np.float64], at: int) -> float:
    """Return the offset from `at` to the maximum of the parabola through three values, within half a step."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    bend = before - 2 * here + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
