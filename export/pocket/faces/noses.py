"""Where the nose is in a picture: found by what it looks like in a drawing of the same person, held about alike."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pocket.faces.portrait import Drawing
from export.pocket.faces.poses import EYE_X

REACH = 0.45  # how far off the nose is looked for, either way, in half faces: 12 pixels of 128

_AIM = 0.2  # of what is compared, on the way from the nose's tip to between the eyes
_WIDTH = (
    0.2  # of the bell that weighs it, in half faces: the nose and little else, as the eyes move with it only in part
)
_FLAT = 1e-3  # variance of a picture that shows nothing there


def nose_place(image: NDArray[np.uint8], example: Drawing) -> NDArray[np.float64]:
    """(2,): x then y in pixels of the nose's tip in `image` (H, W, 3) uint8 RGB.

    example: the same person in a picture of the same size, with the nose no farther off than `REACH`. What is around
    its nose is looked for by weighted normalised correlation, to parts of a pixel. Where a nose is farther off or there
    is none, some place within reach is returned.
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
    """(2 r + 1, 2 r + 1): correlation of `known` (n, n, 3) with each place of `found` (n + 2 r, n + 2 r, 3)."""
    half = known.shape[0] // 2
    bell = cv2.getGaussianKernel(2 * half + 1, width)
    weights = bell @ bell.T

    def summed(values: Any, by: NDArray[np.float64]) -> NDArray[np.float64]:
        # Of channels one by one: OpenCV's filter takes one kernel for all.
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
    """(2 half + 1, 2 half + 1, 3): what is around `middle`, which need not be a whole pixel."""
    steps = np.arange(-half, half + 1)
    x, y = (np.float32(steps + centre) for centre in middle)
    grid = np.meshgrid(x, y)
    cut = cv2.remap(image.astype(np.float32), *grid, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.float32)


def _peak(values: NDArray[np.float64], at: int) -> float:
    """How far beside `at` the parabola through it and its neighbours is highest, within half a step."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    bend = before - 2 * here + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
