"""Draw the background: walls in several kinds of light, out of focus."""

from __future__ import annotations

import numpy as np

from export.pocket.faces.canvas import Canvas, ellipse
from export.pocket.faces.drawing_context import DrawingContext, mix, tone
from export.pocket.faces.people import Colour

# x relative to the middle, y, half width and half height of a soft ellipse, over the size of the image.
_Place = tuple[float, float, float, float]
_SIDE = 48  # pixels of the shorter side of the background, which is drawn small and enlarged


def draw_backdrop(ctx: DrawingContext) -> None:
    """Draw the background over the whole canvas.

    Args:
        ctx: Canvas, person and pose of the drawing.
    """
    height, width = ctx.canvas.height, ctx.canvas.width
    factor = _SIDE / min(height, width)
    small = Canvas(round(height * factor), round(width * factor), 1)
    _PAINTERS[ctx.person.lighting](ctx, small)
    ctx.canvas.paste(small)


def _glow(ctx: DrawingContext, small: Canvas) -> None:
    """Draw a lit wall with a soft glow behind the head."""
    colour = ctx.person.background
    small.gradient(tone(colour, 1.12), tone(colour, 0.72))
    _spot(ctx, small, (-0.2, 0.3, 0.42, 0.4), tone(colour, 1.4), 0.13, 0.7)
    _spot(ctx, small, (0.48, 0.9, 0.35, 0.5), tone(colour, 0.55), 0.12, 0.5)


def _window(ctx: DrawingContext, small: Canvas) -> None:
    """Draw daylight from one side."""
    colour = ctx.person.background
    small.gradient(tone(colour, 0.95), tone(colour, 0.7))
    _spot(ctx, small, (-0.62, 0.35, 0.4, 0.9), tone(colour, 1.75), 0.1, 0.9)
    _spot(ctx, small, (0.55, 0.5, 0.25, 0.9), tone(ctx.person.wall, 0.6), 0.12, 0.8)


def _spot_light(ctx: DrawingContext, small: Canvas) -> None:
    """Draw a bright disc in a dark studio."""
    colour = ctx.person.background
    small.gradient(tone(colour, 0.45), tone(colour, 0.35))
    _spot(ctx, small, (0.0, 0.45, 0.5, 0.5), tone(colour, 1.05), 0.12, 1)
    _spot(ctx, small, (-0.1, 0.35, 0.25, 0.25), tone(colour, 1.5), 0.12, 0.7)


def _horizon(ctx: DrawingContext, small: Canvas) -> None:
    """Draw two colours, one above the other, like a wall and furniture."""
    above, below = ctx.person.background, ctx.person.wall
    small.gradient(tone(above, 1.2), tone(above, 0.9))
    h, w = small.height, small.width
    small.fill(np.array([(-w, 0.62 * h), (2 * w, 0.56 * h), (2 * w, 2 * h), (-w, 2 * h)]), below, soft=0.02 * h)
    _spot(ctx, small, (0.5, 1.0, 0.5, 0.4), tone(below, 0.5), 0.12, 0.7)


def _bokeh(ctx: DrawingContext, small: Canvas) -> None:
    """Draw lights out of focus."""
    colour, other = ctx.person.background, ctx.person.wall
    small.gradient(tone(colour, 0.7), tone(mix(colour, other, 0.5), 0.4))
    spots = [(-0.36, 0.2, 0.11), (-0.3, 0.55, 0.08), (-0.44, 0.8, 0.12), (0.35, 0.15, 0.09), (0.44, 0.42, 0.13)]
    spots += [(0.33, 0.7, 0.07), (0.02, 0.06, 0.1)]
    for number, (x, y, radius) in enumerate(spots):
        lit = tone(other if number % 2 else colour, 1.35)
        _spot(ctx, small, (x, y, radius, radius), lit, 0.02, 0.6)


def _spot(ctx: DrawingContext, small: Canvas, place: _Place, colour: Colour, soft: float, opacity: float) -> None:
    (x, y, half_width, half_height), h, w = place, small.height, small.width
    shape = ellipse((0.5 + ctx.away * x) * w, y * h, half_width * w, half_height * h)
    small.fill(shape, colour, soft=soft * min(h, w), opacity=opacity)


_PAINTERS = {"glow": _glow, "window": _window, "spot": _spot_light, "horizon": _horizon, "bokeh": _bokeh}
