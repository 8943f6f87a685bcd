"""Draw the depth of a person: head with nose, neck and shoulders, by orthographic ray casting of simple solids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces.people import Person, random_person
from export.pocket.faces.poses import AXES, NOSE_LIFT, NOSE_Y, Head, Pose

Grid = NDArray[np.float64]  # one value per pixel; NaN is the background

# A depth z, in half face widths in front of the head's middle at scale 1, is drawn as LEVEL + RANGE z: tips of noses
# that are nearest to the viewer (scale 1.2, tilted) are just below 1, and the farthest edges of shoulders are above 0.
LEVEL, RANGE = 0.35, 0.42

_NOSE = (0.24, 0.36, 0.32)  # half axes of the nose: width, height, depth
_CHIN = (0.85, 0.9)  # height of the jaw's lower edge at depth 0 and per depth, times the length of the face
_NECK = 0.52  # radius
_NECK_DEPTH, _BODY_DEPTH = -0.25, -0.4  # of the axis of the neck, and of the middle of the body
_COLLAR = 1.95  # where the neck ends, below the middle of the body's coordinates
_BODY_Y = 4.2
_BODY = (2.4, 2.55, 0.6)  # half axes of the body, whose upper part is the shoulders


def draw_depth(person: Person | int, pose: Pose, *, height: int, width: int) -> NDArray[np.float32]:
    """Draw the depth of head, neck and shoulders of a person. Mouth, hair and clothes have none.

    The mapping from distance to value is fixed, in units of a head of scale 1, so that a nearer head is brighter and
    larger: at scale 1 the tip of the nose is at about 0.85 and the shoulders are at 0.2 to 0.4.

    Args:
        person: The person, or the seed of a random one.
        pose: The pose. Mouth, lips, eyes and brows do not matter.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Depth, (height, width) float32 in [0, 1]: 0 is the background, and nearer is larger.
    """
    person = random_person(person) if isinstance(person, int) else person
    head = Head(pose, height, width)
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    (middle,), (body,) = head.place([[0, 0]], depth=0), head.body([[0, 0]])
    nearest = _face(head, person, (x - middle[0]) / head.unit, (y - middle[1]) / head.unit)
    (jaw,) = head.place([[0, 1]], depth=0)
    below = np.clip((y - jaw[1]) / max(body[1] + _COLLAR * head.unit - jaw[1], 1e-6), 0, 1)
    aside = (x - jaw[0] - (body[0] - jaw[0]) * below) / head.unit
    x, y = (x - body[0]) / head.unit, (y - body[1]) / head.unit
    neck = _NECK_DEPTH + _root(_NECK**2 - aside * aside)
    hidden = (y > _COLLAR) | (y * head.unit + body[1] < middle[1])
    across, down, depth = _BODY
    shoulders = _BODY_DEPTH + depth * _root(
        1 - (x / (across * person.shoulders)) ** 2 - (np.minimum(y - _BODY_Y, 0) / down) ** 2
    )
    nearest = np.fmax(nearest, np.fmax(np.where(hidden, np.nan, neck), shoulders))
    drawn = np.clip(LEVEL + RANGE * pose.scale * nearest, 0, 1)
    return np.nan_to_num(drawn, copy=False).astype(np.float32)


def _face(head: Head, person: Person, x: Grid, y: Grid) -> Grid:
    """Return the depth of the head and its nose, NaN beside them."""
    skull = _ellipsoid(head, x, y, (*AXES, 1.0), (0.0, 0.0, 0.0))
    # The jaw's lower edge is a plane through the head.
    below = head.rotation[1] - _CHIN[1] * person.length * head.rotation[2]
    skull[below[0] * x + below[1] * y + below[2] * skull > _CHIN[0] * person.length] = np.nan
    surface = np.sqrt(1 - (NOSE_Y / AXES[1]) ** 2)
    nose = _ellipsoid(head, x, y, _NOSE, (0.0, NOSE_Y, surface + NOSE_LIFT - _NOSE[2]))
    depth: Grid = np.fmax(skull, nose)
    return depth


def _ellipsoid(
    head: Head, x: Grid, y: Grid, axes: tuple[float, float, float], centre: tuple[float, float, float]
) -> Grid:
    """Return the depth of an ellipsoid that rotates with the head, in half face widths, NaN beside it."""
    a, b, n = (head.rotation / np.array(axes)[:, None]).T
    q = np.array(centre) / axes
    # On a ray x a + y b + z n, the points of the surface are at distance 1 from q: a quadratic equation in z.
    half = ((a @ n) * x + ((b @ n) * y - q @ n)) / (n @ n)
    square = (a @ a) * x * x + (2 * (a @ b)) * x * y - (2 * (a @ q)) * x
    square = square + ((b @ b) * y * y - (2 * (b @ q)) * y + (q @ q - 1))
    return _root(half * half - square / (n @ n)) - half


def _root(square: Grid) -> Grid:
    """Return square roots, NaN for negative values."""
    root: Grid = np.sqrt(np.where(square < 0, np.nan, square))
    return root
