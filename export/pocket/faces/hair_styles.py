"""Outlines of the hair styles, in face coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from export.pocket.faces.drawing_context import Line


@dataclass(frozen=True)
class Lock:
    """The area between two edges with the same number of points.

    Attributes:
        outer: Outer edge.
        inner: Inner edge, on the face.
        across: Whether strands go from one edge to the other, or along them.
    """

    outer: Line
    inner: Line
    across: bool = False


def _both_sides(outer: Line, inner: Line) -> tuple[Lock, Lock]:
    return Lock(outer, inner), Lock([(-x, y) for x, y in outer], [(-x, y) for x, y in inner])


def _arch(outer: Line, inner: Line) -> Lock:
    """Return a lock over the forehead from ear to ear; the arguments are left halves."""
    outer, inner = ([*half, *((-x, y) for x, y in half[-2::-1])] for half in (outer, inner))
    return Lock(outer, inner, across=True)


_HAIRLINE: Line = [(-0.99, 0.06), (-0.95, -0.45), (-0.82, -0.86), (-0.48, -1.14), (0.0, -1.22)]
_TEMPLES: Line = [(-0.98, -0.2), (-0.94, -0.52), (-0.82, -0.88), (-0.48, -1.14), (0.0, -1.22)]

CAP = _arch([(-1.0, -0.22), (-1.07, -0.6), (-1.03, -1.1), (-0.68, -1.6), (0.0, -1.77)], _TEMPLES)
CROP = _arch([(-1.1, 0.0), (-1.2, -0.5), (-1.1, -1.2), (-0.7, -1.8), (0.0, -2.0)], _HAIRLINE)  # clipped to the skin
CURLS = _arch([(-1.06, 0.08), (-1.24, -0.5), (-1.14, -1.14), (-0.72, -1.62), (0.0, -1.78)], _HAIRLINE)
FRINGE = _arch(
    [(-0.86, -1.1), (-0.7, -1.36), (-0.4, -1.5), (0.0, -1.55)],
    [(-0.86, -0.6), (-0.6, -0.54), (-0.3, -0.52), (0.0, -0.51)],
)

# With the parting on the left; the other side is mirrored.
LOCKS: Mapping[str, tuple[Lock, ...]] = {
    "short": (
        Lock(
            [(-0.5, -1.66), (-0.8, -1.54), (-1.1, -1.08), (-1.17, -0.55), (-1.06, 0.02)],
            [(-0.44, -1.16), (-0.62, -1.06), (-0.86, -0.8), (-0.94, -0.45), (-0.99, 0.0)],
        ),
        Lock(
            [(-0.53, -1.66), (-0.2, -1.86), (0.62, -1.78), (1.14, -1.1), (1.18, -0.55), (1.06, 0.02)],
            [(-0.46, -1.16), (-0.1, -1.06), (0.38, -1.02), (0.82, -0.84), (0.94, -0.45), (0.99, 0.0)],
        ),
    ),
    "parting": (
        Lock(
            [(-0.62, -1.62), (-0.93, -1.42), (-1.14, -0.98), (-1.16, -0.4), (-1.07, 0.2)],
            [(-0.58, -1.14), (-0.74, -0.98), (-0.88, -0.72), (-0.95, -0.4), (-1.0, 0.18)],
        ),
        Lock(
            [(-0.66, -1.62), (-0.25, -1.92), (0.6, -1.86), (1.17, -1.15), (1.2, -0.5), (1.08, 0.2)],
            [(-0.6, -1.16), (-0.22, -0.94), (0.3, -0.74), (0.76, -0.6), (0.95, -0.3), (1.0, 0.18)],
        ),
    ),
    "quiff": (
        Lock(
            [(-1.04, 0.05), (-1.12, -0.55), (-1.08, -1.1), (-0.85, -1.62), (-0.2, -2.0), (0.5, -1.98), (1.0, -1.62),
             (1.12, -1.05), (1.13, -0.5), (1.04, 0.05)],
            [(-0.98, 0.04), (-0.95, -0.45), (-0.84, -0.85), (-0.56, -1.1), (-0.2, -1.2), (0.2, -1.2), (0.56, -1.1),
             (0.84, -0.85), (0.95, -0.45), (0.98, 0.04)],
            across=True,
        ),
    ),
    "bob": _both_sides(
        [(0.05, -1.73), (-0.68, -1.68), (-1.2, -1.08), (-1.31, -0.3), (-1.32, 0.35), (-1.22, 0.85), (-0.88, 1.12)],
        [(0.03, -1.28), (-0.36, -1.12), (-0.8, -0.72), (-0.96, -0.15), (-0.96, 0.35), (-0.86, 0.8), (-0.76, 1.06)],
    ),
    "long": _both_sides(
        [(0.04, -1.73), (-0.66, -1.68), (-1.18, -1.08), (-1.28, -0.2), (-1.3, 0.7), (-1.34, 1.5), (-0.98, 2.4)],
        [(0.03, -1.28), (-0.36, -1.12), (-0.8, -0.7), (-0.97, -0.1), (-0.99, 0.6), (-0.9, 1.3), (-0.94, 2.36)],
    ),
    "bun": (CAP,),
}  # fmt: skip

BACK: Mapping[str, Line] = {  # right halves
    "short": [(0, -1.7), (0.7, -1.5), (1.06, -0.7), (0.97, 0.0), (0.5, 0.2)],
    "bun": [(0, -1.7), (0.68, -1.5), (1.0, -0.8), (0.9, -0.3), (0.5, 0.0)],
    "bob": [(0, -1.7), (0.75, -1.52), (1.2, -0.6), (1.24, 0.4), (1.1, 1.0), (0.5, 1.15)],
    "long": [(0, -1.7), (0.75, -1.52), (1.2, -0.6), (1.24, 0.6), (1.2, 1.6), (0.6, 2.0)],
}
