"""Beards and moustaches, under the lips and over the skin."""

from __future__ import annotations

import numpy as np

from export.pocket.faces.canvas import Mask, Points, curve, ring
from export.pocket.faces.easel import Easel, Line, mirrored, mix, tone

# Right halves, from top to bottom; y counts from the closed mouth, and what is below drops with the jaw.
_MOUSTACHE: Line = [(0.0, -0.21), (0.2, -0.2), (0.42, -0.07), (0.47, 0.06), (0.3, -0.02), (0.0, -0.08)]


def draw_beard(easel: Easel, skin: Mask) -> None:
    """What grows on the person's face."""
    kind = easel.person.beard
    if kind == "none":
        return
    if kind == "stubble":
        _fill(easel, _full(easel), skin, 0.32, 0.1)
        _fill(easel, _placed(easel, _MOUSTACHE), skin, 0.25, 0.04)
        return
    if kind in ("full", "goatee"):
        _fill(easel, _full(easel) if kind == "full" else _goatee(easel), skin, 0.88, 0.045)
    _fill(easel, _placed(easel, _MOUSTACHE), skin, 0.88, 0.025)


def _fill(easel: Easel, outline: Points, skin: Mask, opacity: float, soft: float) -> None:
    grey = sum(easel.person.hair) / 3
    # Duller than the hair on the head; a red beard is not to be taken for lips.
    hair = mix(tone(mix(easel.person.hair, (grey, grey, grey), 0.35), 0.85), easel.deep, 0.12)
    easel.canvas.fill(outline, hair, soft=soft * easel.unit, within=skin, opacity=opacity)


def _placed(easel: Easel, right: Line) -> Points:
    points = np.add(mirrored(right), (0, easel.mouth_y))
    return easel.head.place(easel.head.lowered(curve(points)), 0.02)


def _full(easel: Easel) -> Points:
    """From the sideburns round the chin, with the mouth left out."""
    low, y, head = 1.42 * easel.person.length, easel.mouth_y, easel.head
    outer = [(1.05, 0.1), (1.05, 0.6), (0.85, 1.1), (0.5, 1.35), (0.0, low)]
    inner = [(0.92, 0.2), (0.85, 0.5), (0.6, 0.72), (0.5, y + 0.1), (0.3, y + 0.24), (0.0, y + 0.3)]
    ends = ([*right, *((-x, y) for x, y in right[-2::-1])] for right in (outer, inner))
    edges = [head.place(head.lowered(curve(line, closed=False))) for line in ends]
    return np.concatenate([edges[0], edges[1][::-1]])


def _goatee(easel: Easel) -> Points:
    """Round the mouth and down to the chin."""
    low = 1.4 * easel.person.length - easel.mouth_y
    outer: Line = [(0.0, -0.1), (0.44, 0.0), (0.5, 0.2), (0.36, 0.45), (0.0, low)]
    inner: Line = [(0.0, -0.05), (0.4, 0.02), (0.42, 0.12), (0.25, 0.24), (0.0, 0.28)]
    return ring(_placed(easel, outer), _placed(easel, inner))
