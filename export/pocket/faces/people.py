"""Who is drawn, and how the head is held. Nothing here draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces.canvas import Points

Colour = tuple[float, float, float]  # RGB, 0 to 255

SKINS: tuple[Colour, ...] = ((238, 194, 164), (228, 178, 143), (214, 160, 122), (182, 128, 94), (146, 99, 72))
HAIRS: tuple[Colour, ...] = ((44, 32, 28), (74, 48, 34), (112, 70, 40), (60, 54, 56), (140, 62, 34))
EYES: tuple[Colour, ...] = ((86, 58, 36), (70, 98, 72), (72, 104, 136), (112, 88, 52))
CLOTHES: tuple[Colour, ...] = ((46, 84, 112), (120, 52, 66), (58, 98, 84), (86, 80, 112), (70, 74, 82))
BACKGROUNDS: tuple[Colour, ...] = ((150, 182, 196), (168, 176, 158), (170, 166, 190), (140, 160, 186))
STYLES = ("short", "long")
_SPREADS = {
    "jaw": 0.07, "eye_distance": 0.05, "eye_size": 0.1, "nose": 0.14, "mouth": 0.1, "lips": 0.2, "brows": 0.3,
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """How somebody looks. Proportions are factors around 1."""

    skin: Colour
    hair: Colour
    eyes: Colour
    clothes: Colour
    background: Colour
    style: str  # of STYLES
    jaw: float  # width
    eye_distance: float
    eye_size: float
    nose: float  # width
    mouth: float  # width
    lips: float  # fullness
    brows: float  # strength


@dataclass(frozen=True)
class Pose:
    """How the head is held, and what the face does.

    yaw, pitch, roll: radians; to the picture's right, down, clockwise; within 0.4, 0.25 and 0.35 it stays a face.
    x, y: shift, as a share of the picture's side.  scale: size, 0.8 to 1.2.
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


def random_person(seed: int) -> Person:
    """Somebody; equal seeds give equal people."""
    rng = np.random.default_rng(seed)

    def pick(choices: tuple[Any, ...]) -> Any:
        return choices[rng.integers(len(choices))]

    def shade(colour: Colour) -> Colour:
        r, g, b = np.array(colour) * rng.uniform(0.94, 1.05)
        return float(r), float(g), float(b)

    choices = {"skin": SKINS, "hair": HAIRS, "eyes": EYES, "clothes": CLOTHES, "background": BACKGROUNDS}
    look: dict[str, Any] = {name: shade(pick(colours)) for name, colours in choices.items()}
    look |= {name: float(rng.uniform(1 - spread, 1 + spread)) for name, spread in _SPREADS.items()}
    return Person(style=pick(STYLES), **look)


class Head:
    """Maps face coordinates to pixels: x right and y down from between the cheekbones, 1 being half the face's width.

    The face is taken as the front of an ellipsoid, so that features move as on a head that turns.
    """

    def __init__(self, pose: Pose, height: int, width: int) -> None:
        self.unit = 0.205 * min(height, width) * pose.scale  # pixels
        self._pose = pose
        self._middle = np.array([0.5 * width, 0.47 * height])
        self._shift = np.array([pose.x * width, pose.y * height])

    def place(self, points: Any, lift: float = 0.0) -> Points:
        """Face coordinates (n, 2) -> pixels (n, 2). lift: how far a feature stands out of the face."""
        x, y = np.asarray(points, float).T
        depth = np.sqrt(np.clip(1 - (x / 1.12) ** 2 - (y / 1.65) ** 2, 0, None)) + lift
        p = self._pose
        x, depth = x * np.cos(p.yaw) + depth * np.sin(p.yaw), depth * np.cos(p.yaw) - x * np.sin(p.yaw)
        y = y * np.cos(p.pitch) + depth * np.sin(p.pitch)
        turned = np.stack([x * np.cos(p.roll) - y * np.sin(p.roll), x * np.sin(p.roll) + y * np.cos(p.roll)], axis=1)
        placed: Points = turned * self.unit + self._middle + self._shift
        return placed

    def body(self, points: Any) -> Points:
        """Coordinates of the same measure that follow the head's place by half, and not its turning."""
        placed: Points = np.asarray(points, float) * self.unit + self._middle + self._shift / 2
        return placed


EYE_X, EYE_Y = 0.43, -0.1  # of an eye's centre
NOSE_Y, NOSE_LIFT = 0.4, 0.22  # of the nose's tip


def keypoints(person: Person, pose: Pose, height: int, width: int) -> NDArray[np.float32]:
    """Where left eye, right eye and nose are in the drawing, (3, 2) float32, x then y in pixels."""
    head, x = Head(pose, height, width), EYE_X * person.eye_distance
    eyes = head.place([[-x, EYE_Y], [x, EYE_Y]])
    return np.concatenate([eyes, head.place([[0, NOSE_Y]], NOSE_LIFT)]).astype(np.float32)
