"""Draw neck, shoulders and clothes."""

from __future__ import annotations

import numpy as np

from export.pocket.faces.canvas import Mask, Points, curve, ellipse, ribbon
from export.pocket.faces.drawing_context import DrawingContext, Line, mirrored, tone


def draw_body(ctx: DrawingContext) -> None:
    """Draw the shoulders and the rear side of the collar.

    Args:
        ctx: Canvas, person and pose of the drawing.
    """
    canvas, u, colour, person = ctx.canvas, ctx.unit, ctx.person.clothes, ctx.person
    s = person.shoulders
    right = [(0.5, 1.62), (1.2 * s, 1.88), (1.9 * s, 2.2), (2.3 * s, 3.0), (2.4 * s, 4.2)]
    torso = curve(_body(ctx, mirrored(right)))
    cloth = canvas.mask(torso)
    canvas.fill(torso, colour)
    _draw_pattern(ctx, cloth)
    away = ctx.away
    canvas.fill(
        _body(ctx, ellipse(-1.1 * away, 2.35, 0.7, 0.5)), tone(colour, 1.22), soft=0.25 * u, within=cloth, opacity=0.7
    )
    canvas.fill(
        _body(ctx, ellipse(2.0 * away, 3.2, 0.8, 1.3)), tone(colour, 0.5), soft=0.3 * u, within=cloth, opacity=0.7
    )
    back = curve(_body(ctx, [(-0.72, 1.74), (-0.5, 1.56), (0, 1.5), (0.5, 1.56), (0.72, 1.74)]), closed=False)
    canvas.fill(ribbon(back, 0.2 * u), tone(colour, 0.5))


def _body(ctx: DrawingContext, points: Points | Line) -> Points:
    return ctx.head.body(points)


def _draw_pattern(ctx: DrawingContext, cloth: Mask) -> None:
    canvas, u, person = ctx.canvas, ctx.unit, ctx.person
    if person.pattern == "stripes":
        lines = [[(-2.6, y + 0.35), (-1.2, y), (0, y + 0.12), (1.2, y), (2.6, y + 0.35)] for y in (2.0, 2.6, 3.2)]
        bands = [ribbon(curve(_body(ctx, line), closed=False), 0.26 * u) for line in lines]
    elif person.pattern == "bars":
        ends = [(x, 1.4 + 0.1 * abs(x)) for x in (-1.9, -1.2, -0.5, 0.5, 1.2, 1.9)]
        bands = [ribbon(_body(ctx, [(x, y), (1.02 * x, 3), (1.1 * x, 4.5)]), 0.16 * u) for x, y in ends]
    elif person.pattern == "dots":
        spots = [
            (x + 0.25 * (row % 2), 1.9 + 0.42 * row) for row in range(4) for x in np.arange(-2.25, 2.4, 0.5).tolist()
        ]
        bands = [_body(ctx, ellipse(x, y, 0.1, 0.1, 12)) for x, y in spots]
    else:
        return
    canvas.fill(bands, person.trim, soft=0.01 * u, within=cloth, opacity=0.85)


def draw_neck(ctx: DrawingContext) -> None:
    """Draw the neck, which follows the head at the jaw, but not at the collar.

    Args:
        ctx: Canvas, person and pose of the drawing.
    """
    canvas, u, head = ctx.canvas, ctx.unit, ctx.head
    above_left = head.place([(-0.5, 0.5), (-0.52, 1.0)], depth=0)
    above_right = head.place([(0.52, 1.0), (0.5, 0.5)], depth=0)
    tip = 2.75 if ctx.person.collar == "vneck" else 2.28 if ctx.person.collar == "shirt" else 2.2
    below = head.body([(-0.56, 1.6), (-0.66, 1.85), (0, tip), (0.66, 1.85), (0.56, 1.6)])
    outline = curve(np.concatenate([above_left, below, above_right]))
    skin = canvas.mask(outline)
    canvas.fill(outline, tone(ctx.person.skin, 0.95))
    dark = head.place(ellipse(ctx.away * 0.42, 1.3, 0.3, 0.9, 24), depth=0)
    canvas.fill(dark, ctx.shade, soft=0.13 * u, within=skin)
    under = head.place(head.lowered(ellipse(ctx.away * 0.06, 1.1, 0.66, 0.48, 24)), depth=0.45)
    canvas.fill(under, ctx.deep, soft=0.1 * u, within=skin, opacity=0.75)


def draw_collar(ctx: DrawingContext) -> None:
    """Draw the front side of the collar.

    Args:
        ctx: Canvas, person and pose of the drawing.
    """
    _COLLARS[ctx.person.collar](ctx)


def _draw_rim(ctx: DrawingContext, points: Line, widths: tuple[float, float], shift: float = 0.0) -> None:
    """Draw a band of cloth along `points`; `widths` are those at the ends and in the middle."""
    canvas, u, colour = ctx.canvas, ctx.unit, ctx.person.clothes
    rim = curve(_body(ctx, points), closed=False)
    ends, middle = widths[0] * u, widths[1] * u
    lower = np.array([0, 0.05 * u])
    canvas.fill(ribbon(rim + lower, [0, 1.3 * middle, 0]), tone(colour, 0.55), soft=0.06 * u, opacity=0.6)
    canvas.fill(ribbon(rim, [ends, middle, middle, middle, ends]), tone(colour, 0.86))
    canvas.fill(ribbon(rim - lower, [0, 0.25 * middle, 0]), tone(colour, 1.18), soft=0.02 * u)


def _crew(ctx: DrawingContext) -> None:
    rim = [(-0.66, 1.62), (-0.74, 1.72), (-0.6, 2.0), (0, 2.26), (0.6, 2.0), (0.74, 1.72), (0.66, 1.62)]
    _draw_rim(ctx, rim, (0.04, 0.2))


def _vneck(ctx: DrawingContext) -> None:
    rim = [(-0.66, 1.6), (-0.72, 1.74), (-0.42, 2.25), (0, 2.8), (0, 2.8), (0.42, 2.25), (0.72, 1.74), (0.66, 1.6)]
    _draw_rim(ctx, rim, (0.05, 0.15))


def _turtleneck(ctx: DrawingContext) -> None:
    canvas, u, colour, away = ctx.canvas, ctx.unit, ctx.person.clothes, ctx.away
    top = [(-0.58, 1.36), (-0.3, 1.5), (0, 1.54), (0.3, 1.5), (0.58, 1.36)]
    bottom = [(0.72, 1.8), (0.5, 2.05), (0, 2.14), (-0.5, 2.05), (-0.72, 1.8)]
    outline = np.concatenate([curve(_body(ctx, line), closed=False) for line in (top, bottom)])
    cloth = canvas.mask(outline)
    canvas.fill(outline, tone(colour, 0.92))
    canvas.fill(
        _body(ctx, ellipse(0.5 * away, 1.75, 0.3, 0.5)), tone(colour, 0.55), soft=0.12 * u, within=cloth, opacity=0.8
    )
    canvas.fill(
        _body(ctx, ellipse(-0.25 * away, 1.7, 0.14, 0.3)), tone(colour, 1.25), soft=0.1 * u, within=cloth, opacity=0.7
    )
    for line, width in ((top, 0.05), (bottom, 0.05)):
        canvas.fill(ribbon(curve(_body(ctx, line), closed=False), [0, width * u, 0]), tone(colour, 0.5), soft=0.02 * u)


def _shirt(ctx: DrawingContext) -> None:
    """Draw a shirt collar and buttons."""
    canvas, u, colour = ctx.canvas, ctx.unit, ctx.person.clothes
    canvas.fill(_body(ctx, [(-0.06, 2.3), (0.06, 2.3), (0.08, 4.5), (-0.08, 4.5)]), tone(colour, 0.85), opacity=0.8)
    canvas.fill([_body(ctx, ellipse(0, y, 0.035, 0.035, 12)) for y in (2.62, 3.05)], tone(ctx.person.trim, 1.3))
    for side in (-1, 1):
        flap: Line = [(0.56, 1.5), (0.7, 1.54), (0.8, 1.72), (0.62, 2.34), (0.0, 2.3), (0.4, 2.0), (0.54, 1.8)]
        outline = _body(ctx, [(side * x, y) for x, y in flap])
        canvas.fill(outline + np.array([0, 0.06 * u]), tone(colour, 0.4), soft=0.05 * u, opacity=0.5)
        canvas.fill(outline, tone(colour, 1.12 if side != ctx.away else 0.92))
        edge = _body(ctx, [(side * x, y) for x, y in [(0.0, 2.3), (0.4, 2.0), (0.54, 1.8), (0.56, 1.5)]])
        canvas.fill(ribbon(edge, [0.02 * u, 0.04 * u, 0]), tone(colour, 0.65), opacity=0.8)


def _hoodie(ctx: DrawingContext) -> None:
    """Draw a hood and two strings."""
    for side in (-1, 1):
        hood: Line = [
            (0.5, 1.45),
            (0.86, 1.5),
            (0.98, 1.85),
            (0.6, 2.3),
            (0.06, 2.5),
            (0.0, 2.3),
            (0.42, 2.05),
            (0.62, 1.75),
        ]
        outline = curve(_body(ctx, [(side * x, y) for x, y in hood]))
        colour = tone(ctx.person.clothes, 0.92 if side != ctx.away else 0.75)
        ctx.canvas.fill(outline + np.array([0, 0.07 * ctx.unit]), tone(colour, 0.45), soft=0.06 * ctx.unit, opacity=0.6)
        ctx.canvas.fill(outline, colour)
        string = curve(_body(ctx, [(side * 0.18, 2.4), (side * 0.22, 2.7), (side * 0.2, 3.1)]), closed=False)
        ctx.canvas.fill(ribbon(string, 0.06 * ctx.unit), tone(ctx.person.trim, 1.2))


_COLLARS = {"crew": _crew, "vneck": _vneck, "shirt": _shirt, "turtleneck": _turtleneck, "hoodie": _hoodie}
