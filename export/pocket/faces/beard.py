"""Draw beards and moustaches, over the skin and under the lips."""

from __future__ import annotations

import numpy as np

from export.pocket.faces.canvas import Mask, Points, curve, ring
from export.pocket.faces.drawing_context import DrawingContext, Line, mirrored, mix, tone

# Right half from top to bottom; y is relative to the closed mouth, and lower points move with the jaw.
_MOUSTACHE: Line = [(0.0, -0.21), (0.2, -0.2), (0.42, -0.07), (0.47, 0.06), (0.3, -0.02), (0.0, -0.08)]


def draw_beard(ctx: DrawingContext, skin: Mask) -> None:
    """Draw the beard.

    Args:
        ctx: Canvas, person and pose of the drawing.
        skin: Coverage of the face, to which the drawing is clipped.
    """
    kind = ctx.person.beard
    if kind == "none":
        return
    if kind == "stubble":
        _fill(ctx, _full(ctx), skin, 0.32, 0.1)
        _fill(ctx, _placed(ctx, _MOUSTACHE), skin, 0.25, 0.04)
        return
    if kind in ("full", "goatee"):
        _fill(ctx, _full(ctx) if kind == "full" else _goatee(ctx), skin, 0.88, 0.045)
    _fill(ctx, _placed(ctx, _MOUSTACHE), skin, 0.88, 0.025)


def _fill(ctx: DrawingContext, outline: Points, skin: Mask, opacity: float, soft: float) -> None:
    grey = sum(ctx.person.hair) / 3
    # Less saturated than the hair on the head, so that a red beard is not measured as lips.
    hair = mix(tone(mix(ctx.person.hair, (grey, grey, grey), 0.35), 0.85), ctx.deep, 0.12)
    ctx.canvas.fill(outline, hair, soft=soft * ctx.unit, within=skin, opacity=opacity)


def _placed(ctx: DrawingContext, right: Line) -> Points:
    points = np.add(mirrored(right), (0, ctx.mouth_y))
    return ctx.head.place(ctx.head.lowered(curve(points)), 0.02)


def _full(ctx: DrawingContext) -> Points:
    """Return the outline from the sideburns around the chin, without the mouth."""
    low, y, head = 1.42 * ctx.person.length, ctx.mouth_y, ctx.head
    outer = [(1.05, 0.1), (1.05, 0.6), (0.85, 1.1), (0.5, 1.35), (0.0, low)]
    inner = [(0.92, 0.2), (0.85, 0.5), (0.6, 0.72), (0.5, y + 0.1), (0.3, y + 0.24), (0.0, y + 0.3)]
    ends = ([*right, *((-x, y) for x, y in right[-2::-1])] for right in (outer, inner))
    edges = [head.place(head.lowered(curve(line, closed=False))) for line in ends]
    return np.concatenate([edges[0], edges[1][::-1]])


def _goatee(ctx: DrawingContext) -> Points:
    """Return the outline around the mouth and down to the chin."""
    low = 1.4 * ctx.person.length - ctx.mouth_y
    outer: Line = [(0.0, -0.1), (0.44, 0.0), (0.5, 0.2), (0.36, 0.45), (0.0, low)]
    inner: Line = [(0.0, -0.05), (0.4, 0.02), (0.42, 0.12), (0.25, 0.24), (0.0, 0.28)]
    return ring(_placed(ctx, outer), _placed(ctx, inner))
