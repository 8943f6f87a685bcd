"""Measures of drawn faces: opening of the mouth, and identity."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pocket.faces.canvas import Points
from export.pocket.faces.poses import EYE_X, Head, Pose, pose_of

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Keypoints = NDArray[np.floating[Any]]  # (3, 2): left eye, right eye, nose, in pixels
_Colours = NDArray[np.float64]  # (..., 3) RGB

PATCH = 24  # pixels, height and width of an identity patch

_STEP = 0.02  # between sampled rows of the mouth, in half face widths
_ROWS = np.arange(0.58, 1.25, _STEP)  # from below the nose to the chin below a wide open mouth
_COLUMNS = np.linspace(-0.1, 0.1, 5)
_CHEEKS = (np.array([-0.55, -0.42, -0.3, 0.3, 0.42, 0.55]), np.linspace(0.26, 0.42, 5))
_LIP = 0.3  # least redness of lips, over that of the reddest row
_CHIN, _SKIN = 5, 0.8  # least number of rows of a chin, and their least brightness over that of the cheeks
_HOLLOW = (0.2, 0.5)  # redness over that of the reddest row: certainly between the lips, certainly not
_DARK = (0.4, 0.65)  # brightness over that of the lips: certainly between the lips, certainly not


def mouth_opening(image: Picture, keypoints: Keypoints) -> float:
    """Measure the opening of the mouth of a drawn face.

    Lips are redder than the skin. The measure counts the rows between the first and the last red row in the middle of
    the mouth that are less red (teeth, cavity) or darker (tongue). Skin, beard, glasses and neck are not counted.

    Args:
        image: (H, W, 3) uint8 RGB.
        keypoints: Left eye, right eye and nose in pixels, (3, 2).

    Returns:
        Height between the lips in eye distances: 0 closed, about 0.42 wide open.
    """
    head = _head(image, keypoints)
    rows = _sample_face(image, head, _COLUMNS, _ROWS).mean(axis=1)
    skin = np.median(_sample_face(image, head, *_CHEEKS), axis=(0, 1))
    redness = _redness(rows) - _redness(skin)
    redness = np.convolve(np.pad(redness, 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid")
    reddest = float(redness.max())
    if reddest <= 0:
        return 0.0
    red = _lips(np.flatnonzero(redness > _LIP * reddest), rows, skin)
    mouth = slice(red[0], red[-1] + 1)
    pale = _between(redness[mouth] / reddest, *_HOLLOW)
    dark = _between(rows[mouth, 0] / max(float(np.median(rows[red, 0])), 1.0), *_DARK)
    return float(np.maximum(pale, dark).sum()) * _STEP / (2 * EYE_X)


def _lips(red: NDArray[np.intp], rows: _Colours, skin: _Colours) -> NDArray[np.intp]:
    """Return the red rows without a shaded neck, which is red at the very end, after the skin of a chin."""
    gaps = np.flatnonzero(np.diff(red) > _CHIN)
    if len(gaps) == 0 or red[-1] < len(rows) - 1:
        return red
    chin = rows[red[gaps[-1]] + 1 : red[gaps[-1] + 1]]
    return red[: gaps[-1] + 1] if (chin[:, 0] > _SKIN * skin[0]).all() else red


def identity_patch(image: Picture, keypoints: Keypoints) -> NDArray[np.float32]:
    """Sample head, hair, shoulders and some background, upright and of normalized size, from a smoothed image.

    Args:
        image: (H, W, 3) uint8 RGB; it is continued by the pixels at its border.
        keypoints: Left eye, right eye and nose in pixels, (3, 2).

    Returns:
        RGB in [0, 1], (PATCH, PATCH, 3) float32.
    """
    head = _head(image, keypoints)
    smooth = np.asarray(cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.08 * head.unit), np.float32)
    grid = np.stack(np.meshgrid(np.linspace(-2.0, 2.0, PATCH), np.linspace(-2.0, 2.2, PATCH)), axis=-1)
    middle, right, below = head.place([(0, 0), (1, 0), (0, 1)], depth=0.3)
    turned = grid @ np.stack([right - middle, below - middle])
    upright = grid * head.unit
    # Only the head rotates with its roll, not body and background.
    near = _between(np.hypot(grid[..., 0], 0.85 * grid[..., 1]), 1.5, 2.2)[..., None]
    return (_sample(smooth, middle + upright + near * (turned - upright)) / 255).astype(np.float32)


def identity_distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean difference of the colours of two patches, in which hue has twice the weight of brightness.

    Args:
        first: (..., PATCH, PATCH, 3).
        second: The same, broadcast to `first`.

    Returns:
        (...): 0 for equal patches, about 0.03 for a person in two poses, about 0.14 for two people.
    """
    difference = np.subtract(first, second, dtype=float)
    brightness = difference.mean(axis=-1, keepdims=True)
    parts = abs(brightness) + 2 * abs(difference - brightness).sum(axis=-1, keepdims=True)
    distance: NDArray[np.float64] = parts.mean(axis=(-3, -2, -1)) / 4
    return distance


def _head(image: Picture, keypoints: Keypoints) -> Head:
    height, width = image.shape[:2]
    return Head(_pose(tuple(np.ravel(keypoints).tolist()), height, width), height, width)


@lru_cache(maxsize=64)
def _pose(points: tuple[float, ...], height: int, width: int) -> Pose:
    """Cache `pose_of`, the slowest part, for both measures of a frame and for frames with equal keypoints."""
    return pose_of(np.reshape(points, (3, 2)), height, width)


def _sample_face(image: Picture, head: Head, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> _Colours:
    """Sample the colours on a grid of face coordinates, (rows, columns, 3)."""
    grid = np.stack(np.meshgrid(columns, rows), axis=-1)
    return _sample(image.astype(np.float32), head.place(grid.reshape(-1, 2), 0.02).reshape(grid.shape))


def _sample(image: NDArray[np.float32], places: Points) -> _Colours:
    """Sample the colours at pixels (..., 2), x, then y."""
    at = places.astype(np.float32)
    found = cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, float)


def _redness(colours: _Colours) -> NDArray[np.float64]:
    """Return the redness beyond that of skin; it is lower for dark red."""
    r, g, b = np.moveaxis(colours, -1, 0)
    redness: NDArray[np.float64] = np.maximum(r - 1.5 * g + 0.5 * b, 0) * np.sqrt(r)
    return redness


def _between(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Return 1 up to `low`, 0 from `high` on, and linear values in between."""
    share: NDArray[np.float64] = np.clip((high - values) / (high - low), 0, 1)
    return share
