"""A drawn portrait: shaded, smooth, the same for the same person. Light comes from the upper left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces.canvas import Canvas, Mask, curve, ellipse, ribbon
from export.pocket.faces.easel import Easel, tone
from export.pocket.faces.features import draw_brow, draw_eye, draw_mouth, draw_nose
from export.pocket.faces.hair import draw_back_hair, draw_hair
from export.pocket.faces.people import Head, Person, Pose, keypoints, random_person

NEUTRAL = Pose()


@dataclass(frozen=True)
class Drawing:
    """A picture and what it shows.

    image: (H, W, 3) uint8 RGB.  keypoints: (3, 2) float32, left eye, right eye, nose, x then y in pixels.
    mouth: (3,) float32, openness, width and rounding, as in `Pose`.
    """

    image: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    mouth: NDArray[np.float32]


def draw_face(
    person: Person | int, pose: Pose = NEUTRAL, *, height: int = 512, width: int = 512, oversampling: int = 3
) -> Drawing:
    """Draw head and shoulders of a person, or of `random_person` of a seed.

    height, width: pixels.  oversampling: how often each side of a pixel is divided while painting.
    """
    person = random_person(person) if isinstance(person, int) else person
    easel = Easel(Canvas(height, width, oversampling), Head(pose, height, width), person, pose)
    _draw_backdrop(easel)
    draw_back_hair(easel)
    _draw_body(easel)
    _draw_neck(easel)
    _draw_collar(easel)
    _draw_ears(easel)
    skin = _draw_face(easel)
    draw_nose(easel, skin)
    for side in (-1, 1):
        draw_eye(easel, skin, side)
        draw_brow(easel, side)
    draw_mouth(easel, skin)
    draw_hair(easel)
    mouth = np.array([pose.mouth, pose.width, pose.rounding], np.float32)
    return Drawing(easel.canvas.image(), keypoints(person, pose, height, width), mouth)


def _draw_backdrop(easel: Easel) -> None:
    """A lit wall with a soft glow behind the head."""
    canvas, colour = easel.canvas, easel.person.background
    h, w = canvas.height, canvas.width
    canvas.gradient(tone(colour, 1.12), tone(colour, 0.72))
    canvas.fill(ellipse(0.3 * w, 0.3 * h, 0.42 * w, 0.4 * h), tone(colour, 1.4), soft=0.13 * w, opacity=0.7)
    canvas.fill(ellipse(0.98 * w, 0.9 * h, 0.35 * w, 0.5 * h), tone(colour, 0.55), soft=0.12 * w, opacity=0.5)


def _draw_body(easel: Easel) -> None:
    """Shoulders, and the far side of the collar."""
    canvas, u, colour, body = easel.canvas, easel.unit, easel.person.clothes, easel.head.body
    right = [(0.5, 1.62), (1.25, 1.88), (1.95, 2.2), (2.3, 3.0), (2.4, 4.2)]
    torso = curve(body(_mirrored(right)))
    cloth = canvas.mask(torso)
    canvas.fill(torso, colour)
    canvas.fill(body(ellipse(-1.1, 2.35, 0.7, 0.5)), tone(colour, 1.22), soft=0.25 * u, within=cloth)
    canvas.fill(body(ellipse(2.0, 3.2, 0.8, 1.3)), tone(colour, 0.6), soft=0.3 * u, within=cloth, opacity=0.8)
    back = curve(body([(-0.72, 1.74), (-0.5, 1.56), (0, 1.5), (0.5, 1.56), (0.72, 1.74)]), closed=False)
    canvas.fill(ribbon(back, 0.2 * u), tone(colour, 0.5))


def _draw_neck(easel: Easel) -> None:
    """From under the jaw, where it follows the head, into the collar, where it does not."""
    canvas, u, head = easel.canvas, easel.unit, easel.head
    above_left, above_right = head.place([(-0.52, 0.6), (-0.52, 1.1)]), head.place([(0.52, 1.1), (0.52, 0.6)])
    below = head.body([(-0.56, 1.6), (-0.66, 1.85), (0, 2.2), (0.66, 1.85), (0.56, 1.6)])
    outline = curve(np.concatenate([above_left, below, above_right]))
    skin = canvas.mask(outline)
    canvas.fill(outline, tone(easel.person.skin, 0.95))
    canvas.fill(head.place(ellipse(0.42, 1.3, 0.3, 0.9)), easel.shade, soft=0.13 * u, within=skin)
    canvas.fill(head.place(ellipse(0.06, 1.12, 0.66, 0.48)), easel.deep, soft=0.1 * u, within=skin, opacity=0.75)


def _draw_collar(easel: Easel) -> None:
    canvas, u, colour = easel.canvas, easel.unit, easel.person.clothes
    points = [(-0.66, 1.62), (-0.74, 1.72), (-0.6, 2.0), (0, 2.26), (0.6, 2.0), (0.74, 1.72), (0.66, 1.62)]
    rim = curve(easel.head.body(points), closed=False)
    shadow, edge, shine = (np.array(widths) * u for widths in ([0, 0.26, 0], [0.04, 0.2, 0.2, 0.2, 0.04], [0, 0.05, 0]))
    lower = np.array([0, 0.05 * u])
    canvas.fill(ribbon(rim + lower, shadow), tone(colour, 0.55), soft=0.06 * u, opacity=0.6)
    canvas.fill(ribbon(rim, edge), tone(colour, 0.86))
    canvas.fill(ribbon(rim - lower, shine), tone(colour, 1.18), soft=0.02 * u)


def _draw_ears(easel: Easel) -> None:
    for side in (-1, 1):  # the right one lies in the shade
        colour = easel.person.skin if side < 0 else tone(easel.shade, 1.1)
        ear = [(0.9, -0.2), (1.12, -0.24), (1.15, 0.0), (1.06, 0.3), (0.92, 0.36)]
        easel.canvas.fill(curve(easel.head.place([(side * x, y) for x, y in ear])), tone(colour, 0.95))
        inner = easel.head.place(ellipse(side * 1.02, 0.02, 0.06, 0.17))
        easel.canvas.fill(inner, easel.deep, soft=0.03 * easel.unit, opacity=0.7)


def _draw_face(easel: Easel) -> Mask:
    """The face's outline and the light on it; returns what it covers."""
    canvas, u, place, j = easel.canvas, easel.unit, easel.head.place, easel.person.jaw
    drop = 0.1 * easel.pose.mouth
    right = [(0.0, -1.4), (0.62, -1.24), (0.98, -0.6), (1.0, 0.0), (0.95 * j, 0.5), (0.76 * j, 0.94 + drop / 2),
             (0.4 * j, 1.28 + drop), (0.0, 1.37 + drop)]  # fmt: skip
    outline = curve(place(_mirrored(right)))
    skin = canvas.mask(outline)
    canvas.fill(outline, easel.person.skin)
    r, g, b = easel.person.skin
    blush = tone((r, 0.78 * g, 0.78 * b), 0.99)
    # x, y, half width, half height, colour, softness, opacity
    lights = [
        (1.06, 0.3, 0.34, 1.3, easel.shade, 0.17, 0.95),
        (-1.12, 0.5, 0.2, 1.0, easel.shade, 0.1, 0.6),
        (0.1, 1.5 + drop, 0.7, 0.22, easel.shade, 0.1, 0.9),
        (-0.2, -0.62, 0.5, 0.22, easel.light, 0.17, 0.55),
        (0.02, 1.12 + drop, 0.2, 0.1, easel.light, 0.07, 0.35),
        (-0.56, 0.36, 0.24, 0.17, blush, 0.15, 0.35),
        (0.56, 0.36, 0.24, 0.17, blush, 0.15, 0.35),
        (-0.55, 0.22, 0.18, 0.1, easel.light, 0.08, 0.45),
    ]
    for x, y, half_width, half_height, colour, soft, opacity in lights:
        shape = place(ellipse(x, y, half_width, half_height))
        canvas.fill(shape, colour, soft=soft * u, within=skin, opacity=opacity)
    return skin


def _mirrored(right: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A closed outline from its right half, listed from top to bottom; points at x = 0 are not repeated."""
    return right + [(-x, y) for x, y in reversed(right) if x]
