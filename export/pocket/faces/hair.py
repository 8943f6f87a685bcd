"""Hair: what hangs behind the head, and locks of strands over the forehead and down the sides."""

from __future__ import annotations

import numpy as np

from export.pocket.faces.canvas import Points, curve, ribbon
from export.pocket.faces.easel import Easel, tone

Line = list[tuple[float, float]]

# Locks from the parting on, by style: the outer edge, then the edge along the face; in face coordinates.
_SHORT: list[tuple[Line, Line]] = [
    (
        [(-0.5, -1.62), (-0.8, -1.52), (-1.1, -1.08), (-1.17, -0.55), (-1.06, 0.02)],
        [(-0.44, -1.16), (-0.62, -1.06), (-0.86, -0.8), (-0.94, -0.45), (-0.99, 0.0)],
    ),
    (
        [(-0.53, -1.62), (-0.2, -1.84), (0.62, -1.76), (1.14, -1.1), (1.18, -0.55), (1.06, 0.02)],
        [(-0.46, -1.16), (-0.1, -1.06), (0.38, -1.02), (0.82, -0.84), (0.94, -0.45), (0.99, 0.0)],
    ),
]
_LONG: list[tuple[Line, Line]] = [
    (
        [(0.03, -1.73), (-0.66, -1.68), (-1.18, -1.08), (-1.28, -0.2), (-1.3, 0.7), (-1.34, 1.5), (-0.98, 2.4)],
        [(0.03, -1.28), (-0.36, -1.12), (-0.8, -0.7), (-0.97, -0.1), (-0.99, 0.6), (-0.9, 1.3), (-0.94, 2.36)],
    ),
    (
        [(0.05, -1.73), (0.7, -1.68), (1.2, -1.08), (1.3, -0.2), (1.32, 0.7), (1.36, 1.5), (1.0, 2.4)],
        [(0.03, -1.28), (0.44, -1.1), (0.83, -0.7), (0.97, -0.1), (0.99, 0.6), (0.9, 1.3), (0.95, 2.36)],
    ),
]
_LOCKS = {"short": _SHORT, "long": _LONG}
_BACK: dict[str, Line] = {
    "short": [(0, -1.68), (0.7, -1.5), (1.1, -0.7), (1.04, 0.1), (0.7, 0.5), (-0.7, 0.5), (-1.04, 0.1), (-1.1, -0.7),
              (-0.7, -1.5)],
    "long": [(0, -1.7), (0.75, -1.52), (1.2, -0.6), (1.24, 0.6), (1.2, 1.6), (0.6, 2.0), (-0.6, 2.0), (-1.2, 1.6),
             (-1.22, 0.6), (-1.18, -0.6), (-0.75, -1.52)],
}  # fmt: skip


def draw_back_hair(easel: Easel) -> None:
    """What is seen of the hair behind neck and ears."""
    easel.canvas.fill(curve(easel.head.place(_BACK[easel.person.style])), tone(easel.person.hair, 0.6))


def draw_hair(easel: Easel) -> None:
    """The locks, each with a shadow on what is under it."""
    u, place = easel.unit, easel.head.place
    for outer, inner in _LOCKS[easel.person.style]:
        edges = curve(place(outer), closed=False), curve(place(inner), closed=False)
        shadow = np.concatenate([edges[0], edges[1][::-1]]) + np.array([0, 0.05 * u])
        easel.canvas.fill(shadow, (60, 36, 30), soft=0.06 * u, opacity=0.45)
        _draw_lock(easel, edges)


def _draw_lock(easel: Easel, edges: tuple[Points, Points]) -> None:
    """Strands between two edges (n, 2), pixels; always the same, so that they do not flicker when the head moves."""
    canvas, unit, colour = easel.canvas, easel.unit, np.array(easel.person.hair)
    rng = np.random.default_rng(7)
    outline = np.concatenate([edges[0], edges[1][::-1]])
    inside = canvas.mask(outline, 0.008 * unit)
    canvas.fill(outline, colour, soft=0.008 * unit)
    for share in np.linspace(0.02, 0.98, 26):
        strand = edges[0] * (1 - share) + edges[1] * share
        start, stop = sorted(rng.uniform(0, 1, 2))
        piece = strand[int(0.3 * start * len(strand)) : int((0.7 + 0.3 * stop) * len(strand))]
        shade = colour * rng.uniform(0.6, 0.9) if rng.random() < 0.6 else colour + (255 - colour) * rng.uniform(0, 0.12)
        width = rng.uniform(0.02, 0.06) * unit
        canvas.fill(ribbon(piece, [0, width, 0]), shade, soft=0.01 * unit, opacity=0.6, within=inside)
    for share in np.linspace(0.1, 0.7, 12):  # the light on the bend
        strand = edges[0] * (1 - share) + edges[1] * share
        low, high = (int((0.2 + rng.uniform(0, 0.08) + extra) * len(strand)) for extra in (0, 0.14))
        shine = colour + (np.array([255, 240, 220]) - colour) * 0.35
        canvas.fill(ribbon(strand[low:high], [0, 0.05 * unit, 0]), shine, soft=0.018 * unit, opacity=0.5, within=inside)
