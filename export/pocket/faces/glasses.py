"""Draw glasses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces.canvas import Points, curve, ellipse, ribbon, ring
from export.pocket.faces.drawing_context import DrawingContext, Line, tone
from export.pocket.faces.poses import EYE_X, EYE_Y

_LIFT = 0.12

# Outlines of lenses relative to their centres; x is outwards. Half the size is about 0.34 x 0.27.
_ROUND = ellipse(0, 0, 0.33, 0.31)
_SQUARE: Line = [
    (-0.32, -0.2),
    (-0.2, -0.25),
    (0.25, -0.27),
    (0.38, -0.2),
    (0.36, 0.1),
    (0.26, 0.24),
    (-0.2, 0.25),
    (-0.31, 0.12),
]
_LENSES: dict[str, Points] = {
    "round": _ROUND,
    "square": curve(_SQUARE),
    "half": curve(_SQUARE),
    "wire": _ROUND * (1.08, 0.85),
}
_THICK = {"round": 0.055, "square": 0.075, "half": 0.022, "wire": 0.022}


def draw_glasses(ctx: DrawingContext) -> None:
    """Draw frame, lenses and reflections.

    Args:
        ctx: Canvas, person and pose of the drawing.
    """
    kind = ctx.person.glasses
    if kind == "none":
        return
    canvas, u, colour = ctx.canvas, ctx.unit, ctx.person.frame
    if kind == "wire":
        colour = tone(colour, 1.45)
    thick, distance = _THICK[kind], EYE_X * max(ctx.person.eye_distance, 1.0) + 0.01
    shapes = [_LENSES[kind] * (side, 1) + (side * distance, EYE_Y + 0.02) for side in (-1, 1)]
    lenses = [ctx.head.place(shape, _LIFT) for shape in shapes]
    _draw_lenses(ctx, lenses, distance)
    frame = [ring(lens.mean(axis=0) + (lens - lens.mean(axis=0)) * (1 + thick / 0.3), lens) for lens in lenses]
    frame += _bars(ctx, distance, thick)
    if kind == "half":
        frame += [ribbon(ctx.head.place(shape[_upper(shape)], _LIFT), 0.09 * u) for shape in shapes]
    canvas.fill([np.add(part, (0, 0.04 * u)) for part in frame], ctx.deep, soft=0.03 * u, opacity=0.35)
    canvas.fill(frame, colour)


def _upper(shape: Points) -> NDArray[np.intp]:
    """Return the indices of the upper edge in order of x."""
    above = np.flatnonzero(shape[:, 1] < shape[:, 1].mean() - 0.12)
    return above[np.argsort(shape[above, 0])]


def _bars(ctx: DrawingContext, distance: float, thick: float) -> list[Points]:
    """Return the outlines of the bridge and of the temples."""
    head, u, gap = ctx.head, ctx.unit, distance - 0.32
    bridge = curve(head.place([(-gap, -0.12), (0.0, -0.17), (gap, -0.12)], _LIFT + 0.05), closed=False)
    bars = [ribbon(bridge, thick * u)]
    for side in (-1, 1):
        hinge = head.place([(side * (distance + 0.36), EYE_Y - 0.1)], _LIFT)
        ear = head.place([(side * 1.03, EYE_Y - 0.08)], depth=0.1)
        bars.append(ribbon(np.concatenate([hinge, ear]), thick * u))
    return bars


def _draw_lenses(ctx: DrawingContext, lenses: list[Points], distance: float) -> None:
    """Draw a faint tint and two diagonal reflections."""
    canvas, away, streaks = ctx.canvas, ctx.away, []
    inside = canvas.mask(lenses)
    canvas.fill(lenses, (225, 238, 246), opacity=0.1)
    for side in (-1, 1):
        for offset, half in ((-0.17, 0.05), (-0.05, 0.02)):
            x, y = side * distance + offset * away, EYE_Y - 0.04
            ends = [(x + 0.12 * away + half, y - 0.2), (x + 0.12 * away - half, y - 0.2)]
            ends += [(x - 0.12 * away - half, y + 0.2), (x - 0.12 * away + half, y + 0.2)]
            streaks.append(ctx.head.place(ends, _LIFT))
    canvas.fill(streaks, (255, 255, 255), soft=0.02 * ctx.unit, within=inside, opacity=0.38)
