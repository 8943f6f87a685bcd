"""How a head is held, and where that puts what is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces.canvas import Points
from export.pocket.faces.people import Person

EYE_X, EYE_Y = 0.43, -0.1  # of an eye's centre
NOSE_Y, NOSE_LIFT = 0.4, 0.22  # of the nose's tip
JAW_DROP = 0.27  # of the chin, when the mouth is wide open

_UNIT = 0.21  # half a face's width, as a share of the picture's side
_MIDDLE = (0.5, 0.475)  # of the face, as shares of width and height
_PREFERENCE = np.array(
    [0.05, 0.1]
)  # for no yaw and no pitch, in eye distances a radian: as people's proportions differ
_AXES = (1.12, 1.65)  # half the head's width and height; half its depth is 1


@dataclass(frozen=True)
class Pose:
    """How the head is held, and what the face does.

    yaw, pitch, roll: radians; to the picture's right, down, clockwise; within 0.45, 0.3 and 0.4 it stays a face.
    x, y: shift, as a share of the picture's side; within 0.1 and 0.08 the face stays inside.  scale: size, 0.8 to 1.2.
    mouth: how far it is open, 0 to 1.  width: of the mouth, -1 (narrow) to 1 (wide).
    rounding: lips brought forward to a ring, 0 to 1.  blink: how far the eyes are closed, 0 to 1.
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
    """Maps face coordinates to pixels: x right and y down from between the cheekbones, 1 being half the face's width.

    The face is taken as the front of an ellipsoid, so that features move as on a head that turns.
    """

    def __init__(self, pose: Pose, height: int, width: int) -> None:
        self.unit = _UNIT * min(height, width) * pose.scale  # pixels
        self._pose = pose
        shift = np.array([pose.x * width, pose.y * height])
        middle = np.array(_MIDDLE) * (width, height)
        self._origin, self._body = middle + shift, middle + shift / 2
        self._turn = _rotation(pose)[:, :2] * self.unit

    def place(self, points: Any, lift: float = 0.0, depth: float | None = None) -> Points:
        """Face coordinates (n, 2) -> pixels (n, 2).

        lift: how far a feature stands out of the face.  depth: how far it is in front of the head's middle instead.
        """
        flat = np.asarray(points, float)
        if depth is None:
            across, down = flat[:, 0] / _AXES[0], flat[:, 1] / _AXES[1]
            out: NDArray[np.float64] = np.sqrt(np.maximum(1 - across * across - down * down, 0)) + lift
        else:
            out = np.full(len(flat), depth)
        placed: Points = flat @ self._turn[:2] + out[:, None] * self._turn[2] + self._origin
        return placed

    def body(self, points: Any) -> Points:
        """Coordinates of the same measure that follow the head's place by half, and not its turning."""
        placed: Points = np.asarray(points, float) * self.unit + self._body
        return placed

    def hang(self, points: Any, lift: float = 0.0, depth: float | None = None) -> Points:
        """Like `place`, but what is far below the ears hangs down, however the head is turned."""
        flat = np.asarray(points, float)
        free = np.clip((flat[:, 1:] - 0.3) / 2, 0, 1)
        return self.place(flat, lift, depth) * (1 - free) + (self.body(flat) * 0.5 + self._under(flat) * 0.5) * free

    def rim(self, points: Any) -> Points:
        """Like `hang`, for the outer edge of hair: where the head is turned away, it is farther back than the face."""
        flat = np.asarray(points, float)
        far = np.clip(0.5 + 1.5 * flat[:, :1] * np.clip(5 * self._pose.yaw, -1, 1), 0, 1)
        placed: Points = self.hang(flat, 0.1) * far + self.hang(flat, depth=-0.1) * (1 - far)
        return placed

    def lowered(self, points: Any) -> Points:
        """Face coordinates after the jaw has dropped: from the mouth's corners on, more and more."""
        flat = np.array(points, float)
        share = np.clip((flat[:, 1] - 0.45) / 0.75, 0, 1)
        flat[:, 1] += JAW_DROP * self._pose.mouth * share * share * (3 - 2 * share)
        return flat

    def _under(self, points: Points) -> Points:
        """Straight down from where the head is."""
        placed: Points = points * self.unit + self._origin
        return placed


def _rotation(pose: Pose) -> NDArray[np.float64]:
    """(3, 3), for rows (x, y, depth) on its left: yaw, then pitch, then roll."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (pose.yaw, pose.pitch, pose.roll))
    yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    turn: NDArray[np.float64] = yaw @ pitch @ roll
    return turn


def keypoints(person: Person, pose: Pose, height: int, width: int) -> NDArray[np.float32]:
    """Where left eye, right eye and nose are in the drawing, (3, 2) float32, x then y in pixels."""
    return _landmarks(person.eye_distance, pose, height, width).astype(np.float32)


def pose_of(points: NDArray[np.floating[Any]], height: int, width: int) -> Pose:
    """How a head of average proportions is held whose keypoints (3, 2) are at `points`, in a picture of that size.

    Least squares with a slight preference for heads that look ahead; yaw and pitch within 0.6.
    """
    target = np.asarray(points, float)
    across = target[1] - target[0]
    size = np.hypot(*across) / (2 * EYE_X * _UNIT * min(height, width))
    found = np.array([0.0, 0.0, np.arctan2(across[1], across[0]), max(size, 1e-3)])
    shape = (target - target.mean(axis=0)) / np.hypot(*across).clip(1e-6)

    def residual(held: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the points as seen from their middle, in eye distances, and of what is preferred."""
        seen = _landmarks(1.0, _held(held), height, width)
        apart = (seen - seen.mean(axis=0)) / np.hypot(*across).clip(1e-6) - shape
        return np.concatenate([apart.ravel(), _PREFERENCE * held[:2]])

    for _ in range(5):
        here = residual(found)
        slope = np.stack([(residual(found + step) - here) / 1e-4 for step in 1e-4 * np.eye(4)], axis=1)
        found = found - np.linalg.lstsq(slope, here)[0]
        found = np.clip(found, (-0.6, -0.6, -7, 1e-3), (0.6, 0.6, 7, 1e3))
    shift = (target - _landmarks(1.0, _held(found), height, width)).mean(axis=0) / (width, height)
    return replace(_held(found), x=float(shift[0]), y=float(shift[1]))


def _held(angles_and_scale: NDArray[np.float64]) -> Pose:
    yaw, pitch, roll, scale = angles_and_scale.tolist()
    return Pose(yaw=yaw, pitch=pitch, roll=roll, scale=scale)


def _landmarks(eye_distance: float, pose: Pose, height: int, width: int) -> Points:
    head, x = Head(pose, height, width), EYE_X * eye_distance
    return np.concatenate([head.place([[-x, EYE_Y], [x, EYE_Y]]), head.place([[0, NOSE_Y]], NOSE_LIFT)])
