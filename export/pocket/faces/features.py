"""Draw nose, eyes and brows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from export.pocket.faces.canvas import Mask, Points, curve, ellipse, ribbon
from export.pocket.faces.drawing_context import DrawingContext, Line, mix, tone
from export.pocket.faces.people import Colour
from export.pocket.faces.poses import EYE_X, EYE_Y, NOSE_LIFT, NOSE_Y

_SIDES = (-1, 1)  # left and right in the picture


def draw_nose(ctx: DrawingContext, skin: Mask) -> None:
    """Draw the nose, which moves most when the head rotates.

    Args:
        ctx: Canvas, person and pose of the drawing.
        skin: Coverage of the face, to which the drawing is clipped.
    """
    canvas, u, n, away = ctx.canvas, ctx.unit, ctx.person.nose, ctx.away

    def at(points: Any, lift: float, side: int = 1) -> Points:
        return ctx.head.place(np.asarray(points, float) * (side, 1), lift)

    shaded = curve(at([(0.08, -0.2), (0.13 * n, 0.1), (0.22 * n, 0.42), (0.1 * n, 0.5), (0.07, 0.1)], 0.14, away))
    canvas.fill(shaded, ctx.shade, soft=0.05 * u, within=skin, opacity=0.75)
    canvas.fill(at(ellipse(0.02, 0.56, 0.26 * n, 0.07, 24), 0.1), ctx.shade, soft=0.05 * u, within=skin, opacity=0.9)
    wing, hole = [(0.2 * n, 0.36), (0.26 * n, 0.46), (0.2 * n, 0.54)], [
        (0.06 * n, 0.52), (0.13 * n, 0.485), (0.17 * n, 0.52), (0.12 * n, 0.54),
    ]  # fmt: skip
    wings = [ribbon(curve(at(wing, 0.08, side), closed=False), [0, 0.04 * u, 0.01]) for side in _SIDES]
    canvas.fill(wings, ctx.deep, soft=0.015 * u, within=skin, opacity=0.7)
    holes = [curve(at(hole, 0.14, side), steps=4) for side in _SIDES]
    canvas.fill(holes, tone(ctx.deep, 0.6), soft=0.012 * u, within=skin, opacity=0.85)
    bridge = curve(at([(-0.03, -0.15), (-0.035, 0.1), (-0.03, 0.3)], 0.16, away), closed=False)
    canvas.fill(ribbon(bridge, [0, 0.07 * u, 0.08 * u]), ctx.light, soft=0.04 * u, within=skin, opacity=0.6)
    ctx.glow([(-0.04, NOSE_Y - 0.02, 0.07, 0.055, tone(ctx.light, 1.3), 0.03, 0.75)], skin, NOSE_LIFT)


class _Eyes:
    """Both eyes. Their coordinates are outwards and down from an eye's centre, in half face widths."""

    _EDGE = ((-0.235, -0.035), (-0.13, 0.62), (0.01, 1.0), (0.13, 0.72), (0.235, 0.2))  # inner to outer corner

    def __init__(self, ctx: DrawingContext) -> None:
        self.ctx, self.unit = ctx, ctx.unit
        self.size = 1.24 * ctx.person.eye_size
        angle = -0.13 * ctx.person.eye_tilt
        self._tilt = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
        blink = ctx.pose.blink
        lower = self._lid(-0.085)
        self.upper, self.lower = self._lid(0.113) * (1 - blink) + lower * blink, lower

    def _lid(self, height: float) -> Points:
        return np.array([(dx, -dy if dy < 0 else -dy * height) for dx, dy in self._EDGE]) * self.size

    def pair(self, shape: Callable[[Points], Points], points: Points, turned: bool = True) -> list[Points]:
        """Return an outline for each eye; `shape` makes it from points in pixels."""
        flat = points @ self._tilt if turned else points
        centre = EYE_X * self.ctx.person.eye_distance
        return [shape(self.ctx.head.place(np.add(flat * (side, 1), (side * centre, EYE_Y)))) for side in _SIDES]

    def disc(self, x: float, y: float, radius: float) -> list[Points]:
        """Return a disc for each eye; x is to the same side for both, away from the light."""
        centre, flat = EYE_X * self.ctx.person.eye_distance, ellipse(self.ctx.away * x, y, radius, radius, 20)
        return [self.ctx.head.place(np.add(flat, (side * centre, EYE_Y))) for side in _SIDES]

    def line(self, points: Points, widths: ArrayLike) -> list[Points]:
        """Return a line for each eye; widths are in half face widths."""
        widths = np.asarray(widths, float) * self.unit
        return self.pair(lambda placed: ribbon(curve(placed, closed=False, steps=6), widths), points)


def draw_eyes(ctx: DrawingContext, skin: Mask) -> None:
    """Draw the eyes with lids and lashes.

    Args:
        ctx: Canvas, person and pose of the drawing.
        skin: Coverage of the face, to which the drawing is clipped.
    """
    eyes, canvas, u = _Eyes(ctx), ctx.canvas, ctx.unit
    sockets = eyes.pair(lambda placed: placed, ellipse(0, -0.08, 0.3, 0.2, 24), turned=False)
    canvas.fill(sockets, ctx.shade, soft=0.08 * u, within=skin, opacity=0.6)
    edge = np.concatenate([curve(eyes.upper, closed=False), curve(eyes.lower, closed=False)[::-1]])
    opening = eyes.pair(lambda placed: placed, edge)
    white = canvas.mask(opening)
    canvas.fill(opening, (243, 238, 233))
    _draw_iris(eyes, white)
    _draw_lids(eyes, white)


def _draw_iris(eyes: _Eyes, white: Mask) -> None:
    ctx, radius = eyes.ctx, 0.115 * eyes.size
    colour, canvas, u = ctx.person.eyes, ctx.canvas, ctx.unit

    def disc(dx: float, dy: float, size: float, paint: Colour, soft: float, opacity: float = 1) -> None:
        shape = eyes.disc(dx * radius, dy * radius - 0.012, size * radius)
        canvas.fill(shape, paint, soft=soft * u, opacity=opacity, within=white)

    disc(0, 0, 1, tone(colour, 0.45), 0.006)
    disc(0, 0, 0.85, colour, 0.015)
    disc(0.1, 0.42, 0.42, tone(colour, 1.5), 0.02, 0.8)
    disc(0, 0, 0.45, (18, 14, 14), 0.006)
    disc(-0.36, -0.36, 0.25, (255, 255, 255), 0.004, 0.95)
    if canvas.detailed:
        disc(0.4, 0.4, 0.12, (255, 255, 255), 0.004, 0.5)


def _draw_lids(eyes: _Eyes, white: Mask) -> None:
    ctx, u, blink, upper, s = eyes.ctx, eyes.unit, eyes.ctx.pose.blink, eyes.upper, eyes.size
    canvas, dark = ctx.canvas, mix(tone(ctx.person.hair, 0.4), (28, 20, 20), 0.6)
    shadow = eyes.line(np.add(upper, (0, 0.03)), [0.08])  # the lid's on the eye
    canvas.fill(shadow, (70, 50, 48), soft=0.025 * u, within=white, opacity=0.55)
    canvas.fill(eyes.line(upper, [0.012, 0.035, 0.045, 0.04]), dark, soft=0.004 * u)
    canvas.fill(eyes.line(eyes.lower, [0.006, 0.016]), ctx.deep, soft=0.006 * u, opacity=0.8)
    fold = eyes.line(upper - (0, 0.065 + 0.02 * blink), [0, 0.025, 0.03, 0])
    canvas.fill(fold, ctx.deep, soft=0.012 * u, opacity=0.55)
    lash = np.concatenate([upper[-2:], [(0.275 * s, (-0.035 + 0.1 * blink) * s)]])
    canvas.fill(eyes.line(lash, [0.04, 0.03, 0]), dark)


def draw_brows(ctx: DrawingContext, skin: Mask) -> None:
    """Draw the eyebrows.

    Args:
        ctx: Canvas, person and pose of the drawing.
        skin: Coverage of the face, to which the drawing is clipped.
    """
    u, x, w, tilt = ctx.unit, EYE_X * ctx.person.eye_distance, ctx.person.brows, 0.05 * ctx.person.brow_tilt
    colour = mix(tone(ctx.person.hair, 0.8), ctx.deep, 0.25)
    points: Line = [(x - 0.25, -0.37 + tilt), (x - 0.05, -0.45), (x + 0.12, -0.455 - tilt / 2), (x + 0.3, -0.35 - tilt)]
    lines = [curve(ctx.head.place([(side * px, py) for px, py in points], 0.03), closed=False) for side in _SIDES]
    widths = np.array([0.07, 0.11, 0.1, 0.02]) * u * w
    ctx.canvas.fill([ribbon(line, widths) for line in lines], colour, soft=0.022 * u, within=skin, opacity=0.85)
    if ctx.canvas.detailed:
        hairs = [ribbon(hair, [0, 0.016 * u, 0]) for line in lines for hair in _hairs(line, u * w)]
        ctx.canvas.fill(hairs, tone(colour, 0.75), soft=0.006 * u, within=skin, opacity=0.5)


def _hairs(line: Points, unit: float) -> Iterable[Points]:
    for k, offset in enumerate(np.linspace(-0.03, 0.03, 5).tolist()):
        yield np.add(line[2 * k : 2 * k + 15], (0, offset * unit))
