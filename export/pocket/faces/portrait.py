"""Draw a portrait; the same person and pose make the same image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces.backdrop import draw_backdrop
from export.pocket.faces.beard import draw_beard
from export.pocket.faces.canvas import Canvas, Mask, Points, curve, ellipse
from export.pocket.faces.clothes import draw_body, draw_collar, draw_neck
from export.pocket.faces.drawing_context import DrawingContext, mirrored, tone
from export.pocket.faces.features import draw_brows, draw_eyes, draw_nose
from export.pocket.faces.glasses import draw_glasses
from export.pocket.faces.hair import draw_back_hair, draw_hair
from export.pocket.faces.mouth import draw_mouth
from export.pocket.faces.people import Person, random_person
from export.pocket.faces.poses import Head, Pose, keypoints

NEUTRAL = Pose()


@dataclass(frozen=True)
class Drawing:
    """An image with its keypoints and mouth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        keypoints: Left eye, right eye and nose, x, then y in pixels, (3, 2) float32.
        mouth: Openness, width and rounding as in `Pose`, (3,) float32.
    """

    image: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    mouth: NDArray[np.float32]


def draw_face(
    person: Person | int, pose: Pose = NEUTRAL, *, height: int = 512, width: int = 512, oversampling: int = 3
) -> Drawing:
    """Draw head and shoulders of a person.

    Args:
        person: The person, or the seed of a random one.
        pose: The pose.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        oversampling: Number of subpixels along a pixel's side.
    """
    person = random_person(person) if isinstance(person, int) else person
    ctx = DrawingContext(Canvas(height, width, oversampling), Head(pose, height, width), person, pose)
    draw_backdrop(ctx)
    draw_back_hair(ctx)
    draw_body(ctx)
    draw_neck(ctx)
    draw_collar(ctx)
    _draw_ears(ctx)
    skin = _draw_skin(ctx)
    draw_beard(ctx, skin)
    draw_nose(ctx, skin)
    draw_eyes(ctx, skin)
    draw_brows(ctx, skin)
    draw_mouth(ctx, skin)
    draw_glasses(ctx)
    draw_hair(ctx, skin)
    mouth = np.array([pose.mouth, pose.width, pose.rounding], np.float32)
    return Drawing(ctx.canvas.image(), keypoints(person, pose, height, width), mouth)


def _draw_ears(ctx: DrawingContext) -> None:
    """Draw the ears at the sides of the head, so that the far one is behind a face that is turned."""
    canvas, head = ctx.canvas, ctx.head
    for side in (-1, 1):
        colour = ctx.person.skin if side != ctx.away else tone(ctx.shade, 1.1)
        ear = [(0.86, -0.2), (1.08, -0.26), (1.14, -0.02), (1.06, 0.28), (0.88, 0.36)]
        canvas.fill(curve(head.place([(side * x, y) for x, y in ear], depth=-0.05)), tone(colour, 0.95))
        inner = head.place(ellipse(side * 1.02, 0.02, 0.05, 0.16, 16), depth=-0.05)
        canvas.fill(inner, ctx.deep, soft=0.03 * ctx.unit, opacity=0.7)


def face_shape(ctx: DrawingContext) -> list[Points]:
    """Return the outlines of the head's side, which is visible on a turned head, and of the face.

    Args:
        ctx: Canvas, person and pose of the drawing.

    Returns:
        Two outlines in pixels, each (n, 2).
    """
    head, person = ctx.head, ctx.person
    j, c, length, square = person.jaw, person.cheeks, person.length, person.chin - 0.5
    side = [(0.0, -1.56), (0.5, -1.46), (0.88, -1.08), (0.99, -0.5), (0.98, 0.0), (0.93 * j, 0.45), (0.7 * j, 0.8)]
    front = [(0.0, -1.56), (0.5, -1.46), (0.87, -1.08), (0.99, -0.55), (c, 0.0), (0.48 * c * (1 + j), 0.5 * length)]
    front.append(((0.76 + 0.06 * square) * j, (0.97 + 0.04 * square) * length))
    front.append(((0.4 + 0.12 * square) * j, (1.27 + 0.04 * square) * length))
    back = head.place(mirrored([*side, (0, 1)]), depth=0)
    return [curve(back), head.place(head.lowered(curve(mirrored([*front, (0.0, 1.36 * length)]))))]


def _draw_skin(ctx: DrawingContext) -> Mask:
    """Draw the face and the light on it, and return its coverage."""
    canvas, person, shape = ctx.canvas, ctx.person, face_shape(ctx)
    skin = canvas.mask(shape)
    canvas.fill(shape, person.skin)
    r, g, b = person.skin
    blush = tone((r, 0.78 * g, 0.78 * b), 0.99)
    drop = 0.25 * ctx.pose.mouth
    chin = 1.5 * person.length + drop
    lights = [
        (1.06, 0.3, 0.34, 1.3, ctx.shade, 0.17, 0.95),
        (-1.12, 0.5, 0.2, 1.0, ctx.shade, 0.1, 0.6),
        (0.1, chin, 0.7, 0.22, ctx.shade, 0.1, 0.9),
        (-0.2, -0.72, 0.5, 0.26, ctx.light, 0.17, 0.55),
        (0.02, chin - 0.36, 0.2, 0.1, ctx.light, 0.07, 0.35),
        (-0.56, 0.36, 0.24, 0.17, blush, 0.15, 0.35),
        (0.56, 0.36, 0.24, 0.17, blush, 0.15, 0.35),
        (-0.55, 0.22, 0.18, 0.1, ctx.light, 0.08, 0.45),
    ]
    ctx.glow(lights, skin)
    return skin
