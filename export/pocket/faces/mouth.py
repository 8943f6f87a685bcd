"""Draw the mouth: lips, teeth and tongue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces.canvas import Mask, Points, ellipse, ribbon
from export.pocket.faces.drawing_context import DrawingContext, mix, tone

GAPE = 0.4  # distance of the lips of a wide open mouth, in half face widths
_RISE = 0.22  # share of the distance by which the upper lip moves up

_CAVITY, _TEETH, _TONGUE = (46, 13, 17), (240, 236, 228), (88, 38, 43)


@dataclass(frozen=True)
class Lips:
    """The edges of the lips from corner to corner, in face coordinates.

    Attributes:
        top: Outer edge of the upper lip, (n, 2).
        upper: Inner edge of the upper lip, (n, 2).
        lower: Inner edge of the lower lip, (n, 2).
        bottom: Outer edge of the lower lip, (n, 2).
        half_width: Half the width of the mouth.
        gap: Distance between the inner edges.
        lift: Distance from the face.
    """

    top: Points
    upper: Points
    lower: Points
    bottom: Points
    half_width: float
    gap: float
    lift: float

    def upper_lip(self) -> Points:
        """Return the outline of the upper lip, (2n, 2)."""
        return np.concatenate([self.top, self.upper[::-1]])

    def lower_lip(self) -> Points:
        """Return the outline of the lower lip, (2n, 2)."""
        return np.concatenate([self.lower, self.bottom[::-1]])

    def hollow(self) -> Points:
        """Return the outline of the opening, (2n, 2)."""
        return np.concatenate([self.upper, self.lower[::-1]])


def lip_edges(ctx: DrawingContext) -> Lips:
    """Return the edges of the lips for the pose.

    Args:
        ctx: Canvas, person and pose of the drawing.
    """
    pose, full, y = ctx.pose, ctx.person.lips, ctx.mouth_y
    gap, rounding, smile = GAPE * pose.mouth, pose.rounding, pose.width * (1 - 0.7 * pose.rounding)
    half_width = (
        0.38
        * ctx.person.mouth
        * (1 - 0.08 * pose.mouth)
        * (1 + 0.2 * pose.width * (1 - 0.4 * rounding))
        * (1 - 0.34 * rounding)
    )
    t = np.linspace(-1, 1, 33)
    bulge = 1 - t * t
    # From a lens shape to the ring of an "o".
    arch = bulge ** (1 - 0.35 * rounding - 0.2 * pose.mouth)
    corner = y - 0.03 - 0.05 * smile + 0.28 * gap
    upper = _blend(corner, y + 0.02 * (1 - rounding) - _RISE * gap, arch)
    lower = _blend(corner, y + 0.02 * (1 - rounding) + (1 - _RISE) * gap, arch)
    bow = 1 - (1 - rounding) * (0.24 * np.exp(-((t / 0.15) ** 2)) + 0.1 * t * t)
    ends = 0.02 + 0.98 * bulge ** (0.75 - 0.25 * rounding)
    stretch = (1 - 0.12 * pose.mouth) * (1 - 0.12 * pose.width)
    top = upper - 0.115 * full * stretch * (1 + 0.3 * rounding) * bow * ends
    bottom = lower + 0.15 * full * stretch * (1 + 0.2 * rounding) * ends
    x = half_width * t
    top, upper, lower, bottom = (np.stack([x, edge], axis=1) for edge in (top, upper, lower, bottom))
    return Lips(top, upper, lower, bottom, half_width, gap, lift=0.02 + 0.07 * rounding)


def _blend(corner: float, middle: float, arch: NDArray[np.float64]) -> NDArray[np.float64]:
    return corner + (middle - corner) * arch


def draw_mouth(ctx: DrawingContext, skin: Mask) -> None:
    """Draw the mouth and the folds around it.

    Args:
        ctx: Canvas, person and pose of the drawing.
        skin: Coverage of the face, to which the drawing is clipped.
    """
    canvas, u, lips, lip = ctx.canvas, ctx.unit, lip_edges(ctx), ctx.person.lip
    w, lift, place = lips.half_width, lips.lift, ctx.head.place
    floor = float(lips.bottom[16, 1])
    _draw_folds(ctx, skin, lips)
    shadow = [(0.03, floor + 0.07, 0.75 * w, 0.05, ctx.shade, 0.05, 0.85)]
    ctx.glow(shadow, skin)
    hollow = place(lips.hollow(), lift)
    if lips.gap > 0:
        _draw_inside(ctx, hollow, lips)
    canvas.fill(place(lips.lower_lip(), lift), tone(lip, 1.1), soft=0.006 * u)
    canvas.fill(place(lips.upper_lip(), lift), tone(lip, 0.88), soft=0.006 * u)
    shine = place(ellipse(-0.05 * ctx.away, floor - 0.07 * ctx.person.lips, 0.36 * w, 0.022, 20), lift)
    canvas.fill(shine, tone(lip, 1.35), soft=0.025 * u, opacity=0.6)
    seam = ribbon(place(lips.upper, lift), np.array([0.012, 0.026, 0.03, 0.026, 0.012]) * u)
    canvas.fill(seam, tone(lip, 0.45), soft=0.01 * u, opacity=0.9 * max(0.0, 1 - 10 * ctx.pose.mouth))


def _draw_folds(ctx: DrawingContext, skin: Mask, lips: Lips) -> None:
    """Draw dimples at the corners, and the folds of a smile."""
    w, corner, smile = lips.half_width, float(lips.upper[0, 1]), max(0.0, ctx.pose.width)
    spots = [(x, corner, 0.035, 0.03, ctx.deep, 0.025, 0.6) for x in (-w - 0.02, w + 0.02)]
    ctx.glow(spots, skin)
    lines = []
    for side in (-1, 1):
        fold = [(side * 0.3, 0.5), (side * (w + 0.1), corner - 0.12), (side * (w + 0.12), corner + 0.06)]
        lines.append(ribbon(ctx.head.place(fold), np.array([0.0, 0.05, 0.0]) * ctx.unit))
    ctx.canvas.fill(lines, ctx.deep, soft=0.03 * ctx.unit, within=skin, opacity=0.2 + 0.35 * smile)


def _draw_inside(ctx: DrawingContext, hollow: Points, lips: Lips) -> None:
    """Draw teeth, which do not move with the jaw, and the tongue, which does."""
    canvas, u, w, gap, y = ctx.canvas, ctx.unit, lips.half_width, lips.gap, ctx.mouth_y
    rounding, open_ = ctx.pose.rounding, ctx.pose.mouth
    inside = canvas.mask(hollow)
    canvas.fill(hollow, _CAVITY)

    def paint(
        x: float, y: float, half_width: float, half_height: float, colour: tuple[float, float, float], soft: float
    ) -> None:
        shape = ctx.head.place(ellipse(x, y, half_width, half_height, 24))
        canvas.fill(shape, colour, soft=soft * u, within=inside)

    floor = float(lips.lower[16, 1])
    tongue = mix(_CAVITY, _TONGUE, min(1.0, 0.3 + open_))
    paint(0, floor - 0.12 * gap, 0.6 * w, 0.3 * gap, tongue, 0.035)
    paint(0, floor - 0.22 * gap, 0.2 * w, 0.12 * gap, tone(tongue, 1.12), 0.05)
    low = 0.03 - 0.04 * rounding  # lower end of the upper teeth, relative to the closed mouth
    teeth = tone(_TEETH, min(1.0, 0.4 + 2.4 * open_))  # a small gap is dark
    paint(0, y + low - 0.3, 0.8 * w, 0.3, teeth, 0.008)
    paint(0, float(lips.upper[16, 1]) - 0.02, 0.8 * w, 0.04, tone(teeth, 0.7), 0.02)  # shadow of the lip
