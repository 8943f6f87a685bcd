"""Smooth shapes with sharp or soft edges, painted one over another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]  # (n, 2), x then y
Shape = Points | Sequence[Points]  # an outline, or several that count as one shape
Mask = NDArray[np.float32]  # coverage in [0, 1]
_Stencil = NDArray[np.uint8] | NDArray[np.float32]  # coverage, 0 to 255

_FINE = 8  # bits of a pixel in OpenCV's coordinates
_EDGE = 4  # parts of a pixel's side that the edges of shapes are drawn in, at least
_SHARP = 0.3  # a blur of fewer fine pixels than this cannot be seen


@lru_cache(maxsize=256)
def _spline(count: int, closed: bool, steps: int) -> NDArray[np.float64]:
    """What makes the points of `curve` out of those that it runs through, by one product: (points, count)."""
    p = np.eye(count)
    padded = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    before, start, end, after = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    bend = (2 * before - 5 * start + 4 * end - after) * t**2 + (3 * start - before - 3 * end + after) * t**3
    spline = (start + ((end - before) * t + bend) / 2).reshape(-1, count)
    return spline if closed else np.concatenate([spline, p[-1:]])


def curve(points: ArrayLike, *, closed: bool = True, steps: int = 8) -> Points:
    """A Catmull-Rom spline through `points` (n, 2), `steps` points a span; two equal points in a row make a corner."""
    p = np.asarray(points, float)
    points_along: Points = _spline(len(p), closed, steps) @ p
    return points_along


@lru_cache(maxsize=8)
def _circle(count: int) -> Points:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def ellipse(x: float, y: float, half_width: float, half_height: float, count: int = 32) -> Points:
    """Outline of an upright ellipse, (count, 2)."""
    outline: Points = _circle(count) * (half_width, half_height) + (x, y)
    return outline


@lru_cache(maxsize=256)
def _spread(count: int, length: int) -> NDArray[np.float64]:
    """What spreads `count` numbers along `length` places, by one product: (length, count)."""
    along, knots = np.linspace(0, 1, length), np.linspace(0, 1, count)
    return np.stack([np.interp(along, knots, row) for row in np.eye(count)], axis=1)


def ribbon(line: Points, width: ArrayLike) -> Points:
    """Outline (..., 2n, 2) of a line (..., n, 2) `width` wide: a number, or (..., k) spread along it."""
    along = np.empty_like(line)
    along[..., 1:-1, :] = line[..., 2:, :] - line[..., :-2, :]
    along[..., 0, :], along[..., -1, :] = line[..., 1, :] - line[..., 0, :], line[..., -1, :] - line[..., -2, :]
    widths = np.atleast_1d(np.asarray(width, float))
    half = widths @ _spread(widths.shape[-1], line.shape[-2]).T / 2
    half = half / np.maximum(np.hypot(along[..., 0], along[..., 1]), 1e-9)
    aside = np.stack([-along[..., 1] * half, along[..., 0] * half], axis=-1)
    return np.concatenate([line + aside, (line - aside)[..., ::-1, :]], axis=-2)


def ring(outer: Points, inner: Points) -> Points:
    """One outline of what lies between two closed ones."""
    return np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])


def _blur(stencil: NDArray[np.uint8], radius: float) -> _Stencil:
    """A drawn shape, 0 to 255, blurred by `radius` pixels; wide blurs on a coarser grid."""
    if radius < _SHARP:
        return stencil
    size, coarse = stencil.shape[::-1], max(1, int(radius / 1.5))
    if coarse > 1:
        small = [-(-side // coarse) for side in size]
        stencil = np.asarray(cv2.resize(stencil, small, interpolation=cv2.INTER_AREA), np.uint8)
    # In floating point: OpenCV blurs bytes several times slower.
    blurred = cv2.GaussianBlur(stencil.astype(np.float32), (0, 0), radius / coarse)
    if coarse > 1:
        blurred = cv2.resize(blurred, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(blurred, np.float32)


class Canvas:
    """A picture of height x width pixels, painted `oversampling` times as fine and averaged in the end.

    Coordinates are pixels of the finished picture; colours are RGB, 0 to 255.
    """

    def __init__(self, height: int, width: int, oversampling: int = 3) -> None:
        self.height, self.width, self._scale = height, width, oversampling
        # One plane a colour, so that arithmetic runs along rows.
        self._pixels = np.zeros((3, height * oversampling, width * oversampling), np.float32)

    @property
    def detailed(self) -> bool:
        """Whether the picture is large enough for single hairs."""
        return min(self.height, self.width) >= 192

    def gradient(self, top: ArrayLike, bottom: ArrayLike) -> None:
        """Cover everything, from the colour `top` to the colour `bottom`."""
        share = np.linspace(0, 1, self._pixels.shape[1], dtype=np.float32)
        first, last = np.asarray(top, np.float32)[:, None], np.asarray(bottom, np.float32)[:, None]
        self._pixels[:] = (first + share * (last - first))[:, :, None]

    def paste(self, other: Canvas) -> None:
        """Cover everything with another canvas, enlarged."""
        for plane, source in zip(self._pixels, other._pixels, strict=True):
            cv2.resize(source, plane.shape[::-1], dst=plane, interpolation=cv2.INTER_LINEAR)

    def mask(self, shape: Shape, soft: float = 0) -> Mask:
        """What `fill` would cover, on the fine grid: to be passed as `within`."""
        whole = np.zeros(self._pixels.shape[1:], np.float32)
        found = self._coverage(shape, soft)
        if found is not None:
            region, coverage = found
            np.multiply(coverage, np.float32(1 / 255), out=whole[region])
        return whole

    def fill(
        self, shape: Shape, colour: ArrayLike, *, soft: float = 0, opacity: float = 1, within: Mask | None = None
    ) -> None:
        """Paint the inside of `shape`, its edge blurred by `soft` pixels, where `within` lets it."""
        found = self._coverage(shape, soft)
        if found is None:
            return
        region, coverage = found
        share = np.multiply(coverage, np.float32(opacity / 255), dtype=np.float32)
        if within is not None:
            share *= within[region]
        target = self._pixels[:, region[0], region[1]]
        change = np.asarray(colour, np.float32)[:, None, None] - target
        change *= share
        target += change

    def image(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB."""
        size = (self.width, self.height)
        planes = [cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in self._pixels]
        return np.clip(np.rint(np.stack(planes, axis=-1)), 0, 255).astype(np.uint8)

    def _coverage(self, shape: Shape, soft: float) -> tuple[tuple[slice, slice], _Stencil] | None:
        """The rectangle of the fine grid that a shape touches, and how much of each of its pixels is covered."""
        outlines = [shape] if isinstance(shape, np.ndarray) and shape.ndim == 2 else shape
        blur = soft * self._scale
        # A sharp edge is drawn finer still; a blurred one need not be.
        finer = 1 if blur > 1 else -(-_EDGE // self._scale)
        factor = (self._scale * finer) << _FINE
        corners = [(outline * factor - (1 << _FINE - 1)).astype(np.int32) for outline in outlines]
        if not corners:
            return None
        left, top, width, height = cv2.boundingRect(corners[0] if len(corners) == 1 else np.concatenate(corners))
        # Drawn with a margin beyond the picture, so that the blur does not see the picture's edge.
        margin, unit = int(3 * blur) + 2, finer << _FINE
        columns = _Extent(left // unit, (left + width) // unit, margin, self._pixels.shape[2])
        rows = _Extent(top // unit, (top + height) // unit, margin, self._pixels.shape[1])
        if columns.empty or rows.empty:
            return None
        size = (columns.stop - columns.start, rows.stop - rows.start)
        stencil = np.zeros((size[1] * finer, size[0] * finer), np.uint8)
        offset = np.array([columns.start * unit, rows.start * unit], np.int32)
        for outline in corners:  # one by one: together, what two of them cover would count as outside
            cv2.fillPoly(stencil, [outline - offset], 255, lineType=cv2.LINE_8, shift=_FINE)
        if finer > 1:
            stencil = np.asarray(cv2.resize(stencil, size, interpolation=cv2.INTER_AREA), np.uint8)
        coverage = _blur(stencil, blur)
        return (rows.seen, columns.seen), coverage[rows.inside, columns.inside]


class _Extent:
    """Rows or columns, low to high, that a shape touches on a canvas of `size` fine pixels.

    start, stop: with the margin.  seen: the part on the canvas.  inside: the same, counted from `start`.
    """

    def __init__(self, low: int, high: int, margin: int, size: int) -> None:
        self.start = min(max(low - margin, -margin), size)
        self.stop = min(max(high + 1 + margin, 0), size + margin)
        first, last = max(self.start, 0), min(self.stop, size)
        self.empty = first >= last
        self.seen, self.inside = slice(first, last), slice(first - self.start, last - self.start)
