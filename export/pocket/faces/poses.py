"""The pose of a head, and the mapping from face coordinates to pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces.canvas import Points
from export.pocket.faces.people import Person

EYE_X, EYE_Y = 0.43, -0.1  # of an eye's centre
NOSE_Y, NOSE_LIFT = 0.4, 0.22  # of the tip of the nose
JAW_DROP = 0.27  # of the chin for a wide open mouth
AXES = (1.12, 1.65)  # half width and height of the head; half its depth is 1

_UNIT = 0.21  # half face width, over the image's side
_MIDDLE = (0.5, 0.475)  # of the face, over width and height
# Weights of a prior for yaw 0 and pitch 0, in eye distances per radian; needed because people's proportions differ.
_PREFERENCE = np.array([0.05, 0.1])


@dataclass(frozen=True)
class Pose:
    """The pose of a head and its expression.

    Attributes:
        yaw: Rotation to the right of the image in radians, at most 0.45 in both directions.
        pitch: Rotation down in radians, at most 0.3.
        roll: Rotation clockwise in radians, at most 0.4.
        x: Shift to the right over the image's width, at most 0.1.
        y: Shift down over the image's height, at most 0.08.
        scale: Size, 0.8 to 1.2.
        mouth: Openness of the mouth, 0 to 1.
        width: Width of the mouth, -1 (narrow) to 1 (wide).
        rounding: Rounding of the lips, 0 to 1.
        blink: Closing of the eyes, 0 to 1.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    mouth: float = 0.0
    width: float = 0.0
    rounding: float = 0.0
    blink: float = 0.0


class Head:
    """The mapping from face coordinates to pixels.

    The origin is between the cheekbones, x is to the right, y is down, and the unit is half the face width. The face is
    the front of an ellipsoid, so that features move like on a rotating head.
    """

    def __init__(self, pose: Pose, height: int, width: int) -> None:
        """Set up the mapping.

        Args:
            pose: Pose of the head.
            height: Height of the image in pixels.
            width: Width of the image in pixels.
        """
        self.unit = _UNIT * min(height, width) * pose.scale  # pixels
        self._pose = pose
        shift = np.array([pose.x * width, pose.y * height])
        middle = np.array(_MIDDLE) * (width, height)
        self._origin, self._body = middle + shift, middle + shift / 2
        self.rotation = _rotation(pose)  # (3, 3), of row vectors: x, y and depth
        self._turn = self.rotation[:, :2] * self.unit

    def place(self, points: Any, lift: float = 0.0, depth: float | None = None) -> Points:
        """Map points of the face.

        Args:
            points: Face coordinates, (n, 2).
            lift: Distance from the face.
            depth: Distance in front of the head's middle, in place of `lift`.

        Returns:
            Pixels, (n, 2).
        """
        flat = np.asarray(points, float)
        if depth is None:
            across, down = flat[:, 0] / AXES[0], flat[:, 1] / AXES[1]
            out: NDArray[np.float64] = np.sqrt(np.maximum(1 - across * across - down * down, 0)) + lift
        else:
            out = np.full(len(flat), depth)
        placed: Points = flat @ self._turn[:2] + out[:, None] * self._turn[2] + self._origin
        return placed

    def body(self, points: Any) -> Points:
        """Map points of the body, which moves by half the head's shift and does not rotate.

        Args:
            points: Points in the unit of face coordinates, (n, 2).

        Returns:
            Pixels, (n, 2).
        """
        placed: Points = np.asarray(points, float) * self.unit + self._body
        return placed

    def hang(self, points: Any, lift: float = 0.0, depth: float | None = None) -> Points:
        """Map points like `place`, but points far below the ears hang straight down.

        Args:
            points: Face coordinates, (n, 2).
            lift: See `place`.
            depth: See `place`.

        Returns:
            Pixels, (n, 2).
        """
        flat = np.asarray(points, float)
        free = np.clip((flat[:, 1:] - 0.3) / 2, 0, 1)
        return self.place(flat, lift, depth) * (1 - free) + (self.body(flat) * 0.5 + self._under(flat) * 0.5) * free

    def rim(self, points: Any) -> Points:
        """Map the outer edge of hair like `hang`; on the side that is turned away it is behind the face.

        Args:
            points: Face coordinates, (n, 2).

        Returns:
            Pixels, (n, 2).
        """
        flat = np.asarray(points, float)
        far = np.clip(0.5 + 1.5 * flat[:, :1] * np.clip(5 * self._pose.yaw, -1, 1), 0, 1)
        placed: Points = self.hang(flat, 0.1) * far + self.hang(flat, depth=-0.1) * (1 - far)
        return placed

    def lowered(self, points: Any) -> Points:
        """Move points with the jaw, more and more below the corners of the mouth.

        Args:
            points: Face coordinates, (n, 2).

        Returns:
            Face coordinates, (n, 2).
        """
        flat = np.array(points, float)
        share = np.clip((flat[:, 1] - 0.45) / 0.75, 0, 1)
        flat[:, 1] += JAW_DROP * self._pose.mouth * share * share * (3 - 2 * share)
        return flat

    def _under(self, points: Points) -> Points:
        """Map points straight down from the head."""
        placed: Points = points * self.unit + self._origin
        return placed


def _rotation(pose: Pose) -> NDArray[np.float64]:
    """Return the rotation (3, 3) of row vectors (x, y, depth): yaw, then pitch, then roll."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (pose.yaw, pose.pitch, pose.roll))
    yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    turn: NDArray[np.float64] = yaw @ pitch @ roll
    return turn


def keypoints(person: Person, pose: Pose, height: int, width: int) -> NDArray[np.float32]:
    """Return the keypoints of a drawing.

    Args:
        person: The person.
        pose: The pose.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Left eye, right eye and nose, x, then y in pixels, (3, 2) float32.
    """
    return _landmarks(person.eye_distance, pose, height, width).astype(np.float32)


def pose_of(points: NDArray[np.floating[Any]], height: int, width: int) -> Pose:
    """Estimate the pose of a head of average proportions, by least squares with a weak prior for yaw 0 and pitch 0.

    Args:
        points: Keypoints in pixels, (3, 2).
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        The pose; yaw and pitch are at most 0.6 in both directions.
    """
    target = np.asarray(points, float)
    across = target[1] - target[0]
    size = np.hypot(*across) / (2 * EYE_X * _UNIT * min(height, width))
    found = np.array([0.0, 0.0, np.arctan2(across[1], across[0]), max(size, 1e-3)])
    shape = (target - target.mean(axis=0)) / np.hypot(*across).clip(1e-6)

    def residual(angles_and_scale: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the errors of the points relative to their mean, in eye distances, and those of the prior."""
        seen = _landmarks(1.0, _rigid_pose(angles_and_scale), height, width)
        apart = (seen - seen.mean(axis=0)) / np.hypot(*across).clip(1e-6) - shape
        return np.concatenate([apart.ravel(), _PREFERENCE * angles_and_scale[:2]])

    for _ in range(5):
        here = residual(found)
        slope = np.stack([(residual(found + step) - here) / 1e-4 for step in 1e-4 * np.eye(4)], axis=1)
        found = found - np.linalg.lstsq(slope, here)[0]
        found = np.clip(found, (-0.6, -0.6, -7, 1e-3), (0.6, 0.6, 7, 1e3))
    shift = (target - _landmarks(1.0, _rigid_pose(found), height, width)).mean(axis=0) / (width, height)
    return replace(_rigid_pose(found), x=float(shift[0]), y=float(shift[1]))


def _rigid_pose(angles_and_scale: NDArray[np.float64]) -> Pose:
    yaw, pitch, roll, scale = angles_and_scale.tolist()
    return Pose(yaw=yaw, pitch=pitch, roll=roll, scale=scale)


def _landmarks(eye_distance: float, pose: Pose, height: int, width: int) -> Points:
    head, x = Head(pose, height, width), EYE_X * eye_distance
    return np.concatenate([head.place([[-x, EYE_Y], [x, EYE_Y]]), head.place([[0, NOSE_Y]], NOSE_LIFT)])
