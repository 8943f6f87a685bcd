"""What a picture of a face shows, measured in its pixels: how far the mouth is open, and who it is."""

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

PATCH = 24  # pixels, height and width of what `identity_patch` returns

_STEP = 0.02  # between rows of the look at the mouth, in half faces
_ROWS = np.arange(0.58, 1.25, _STEP)  # from below the nose to the chin of a mouth that is wide open
_COLUMNS = np.linspace(-0.1, 0.1, 5)
_CHEEKS = (np.array([-0.55, -0.42, -0.3, 0.3, 0.42, 0.55]), np.linspace(0.26, 0.42, 5))
_LIP = 0.3  # redness of what counts as lips, as a share of the reddest
_CHIN, _SKIN = 5, 0.8  # rows that a chin has at least, and how bright they are, as a share of the cheeks
_HOLLOW = (0.2, 0.5)  # redness, as such a share: of what certainly is between the lips, and of what certainly is not
_DARK = (0.4, 0.65)  # brightness, as a share of the lips', likewise


def mouth_opening(image: Picture, keypoints: Keypoints) -> float:
    """Height of what is seen between the lips in a drawn face, in eye distances: 0 closed, about 0.42 wide open.

    Lips are redder than the skin; what lies between the first and the last red row in the middle of the mouth and is
    not as red (teeth, dark) or darker (tongue) counts. So neither skin, beard, glasses nor what is below the chin do.
    """
    head = _head(image, keypoints)
    rows = _look(image, head, _COLUMNS, _ROWS).mean(axis=1)
    skin = np.median(_look(image, head, *_CHEEKS), axis=(0, 1))
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
    """The rows that are red, without a neck in the shade: red at the very end, beyond a chin's width of skin."""
    gaps = np.flatnonzero(np.diff(red) > _CHIN)
    if len(gaps) == 0 or red[-1] < len(rows) - 1:
        return red
    chin = rows[red[gaps[-1]] + 1 : red[gaps[-1] + 1]]
    return red[: gaps[-1] + 1] if (chin[:, 0] > _SKIN * skin[0]).all() else red


def identity_patch(image: Picture, keypoints: Keypoints) -> NDArray[np.float32]:
    """The head with hair, shoulders and some of the background, upright and of equal size: (PATCH, PATCH, 3) float32.

    RGB, 0 to 1, smoothed. What lies outside the picture is what is at its edge.
    """
    head = _head(image, keypoints)
    smooth = np.asarray(cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.08 * head.unit), np.float32)
    grid = np.stack(np.meshgrid(np.linspace(-2.0, 2.0, PATCH), np.linspace(-2.0, 2.2, PATCH)), axis=-1)
    middle, right, below = head.place([(0, 0), (1, 0), (0, 1)], depth=0.3)
    turned = grid @ np.stack([right - middle, below - middle])
    upright = grid * head.unit
    # The head is turned with its roll; body and background are not.
    near = _between(np.hypot(grid[..., 0], 0.85 * grid[..., 1]), 1.5, 2.2)[..., None]
    return (_sample(smooth, middle + upright + near * (turned - upright)) / 255).astype(np.float32)


def identity_distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far apart the colours of two patches are, place by place, on average; hue counts twice as much as brightness.

    first, second: (..., PATCH, PATCH, 3), broadcast to each other; returns (...). 0 for the same patch, about 0.03 for
    one person in two poses, about 0.14 for two people.
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
    """`pose_of`, which takes longer than all else, once for both measures of a frame and for a head that is held."""
    return pose_of(np.reshape(points, (3, 2)), height, width)


def _look(image: Picture, head: Head, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> _Colours:
    """Colours on a grid of face coordinates, (rows, columns, 3)."""
    grid = np.stack(np.meshgrid(columns, rows), axis=-1)
    return _sample(image.astype(np.float32), head.place(grid.reshape(-1, 2), 0.02).reshape(grid.shape))


def _sample(image: NDArray[np.float32], places: Points) -> _Colours:
    """Colours at pixels (..., 2), x then y."""
    at = places.astype(np.float32)
    found = cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, float)


def _redness(colours: _Colours) -> NDArray[np.float64]:
    """How much more red than skin of any tone is; dark red counts for less."""
    r, g, b = np.moveaxis(colours, -1, 0)
    redness: NDArray[np.float64] = np.maximum(r - 1.5 * g + 0.5 * b, 0) * np.sqrt(r)
    return redness


def _between(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """1 up to `low`, 0 from `high` on."""
    share: NDArray[np.float64] = np.clip((high - values) / (high - low), 0, 1)
    return share
