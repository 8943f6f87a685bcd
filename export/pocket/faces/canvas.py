"""A canvas for smooth shapes with sharp or soft edges."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]  # (n, 2), x then y
Shape = Points | Sequence[Points]  # an outline, or several outlines of one shape
Mask = NDArray[np.float32]  # coverage in [0, 1]
_Stencil = NDArray[np.uint8] | NDArray[np.float32]  # coverage, 0 to 255

_FINE = 8  # fractional bits of OpenCV's coordinates
_EDGE = 4  # least number of subpixels along a pixel's side for the edges of shapes
_SHARP = 0.3  # radius in fine pixels of the largest invisible blur


@lru_cache(maxsize=256)
def _spline(count: int, closed: bool, steps: int) -> NDArray[np.float64]:
    """Return the matrix from the control points of `curve` to its points, (points, count)."""
    p = np.eye(count)
    padded = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    before, start, end, after = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    bend = (2 * before - 5 * start + 4 * end - after) * t**2 + (3 * start - before - 3 * end + after) * t**3
    spline = (start + ((end - before) * t + bend) / 2).reshape(-1, count)
    return spline if closed else np.concatenate([spline, p[-1:]])


def curve(points: ArrayLike, *, closed: bool = True, steps: int = 8) -> Points:
    """Return points of a Catmull-Rom spline.

    Args:
        points: Points that it passes through, (n, 2); two equal points in a row make a corner.
        closed: Whether it returns to the first point.
        steps: Number of points per span.

    Returns:
        (m, 2).
    """
    p = np.asarray(points, float)
    points_along: Points = _spline(len(p), closed, steps) @ p
    return points_along


@lru_cache(maxsize=8)
def _circle(count: int) -> Points:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def ellipse(x: float, y: float, half_width: float, half_height: float, count: int = 32) -> Points:
    """Return the outline of an upright ellipse.

    Args:
        x: x of the centre.
        y: y of the centre.
        half_width: Half its width.
        half_height: Half its height.
        count: Number of points.

    Returns:
        (count, 2).
    """
    outline: Points = _circle(count) * (half_width, half_height) + (x, y)
    return outline


@lru_cache(maxsize=256)
def _spread(count: int, length: int) -> NDArray[np.float64]:
    """Return the matrix that interpolates `count` numbers at `length` positions, (length, count)."""
    along, knots = np.linspace(0, 1, length), np.linspace(0, 1, count)
    return np.stack([np.interp(along, knots, row) for row in np.eye(count)], axis=1)


def ribbon(line: Points, width: ArrayLike) -> Points:
    """Return the outline of a line of some width.

    Args:
        line: (..., n, 2).
        width: A number, or (..., k) numbers that are interpolated along the line.

    Returns:
        (..., 2n, 2).
    """
    along = np.empty_like(line)
    along[..., 1:-1, :] = line[..., 2:, :] - line[..., :-2, :]
    along[..., 0, :], along[..., -1, :] = line[..., 1, :] - line[..., 0, :], line[..., -1, :] - line[..., -2, :]
    widths = np.atleast_1d(np.asarray(width, float))
    half = widths @ _spread(widths.shape[-1], line.shape[-2]).T / 2
    half = half / np.maximum(np.hypot(along[..., 0], along[..., 1]), 1e-9)
    aside = np.stack([-along[..., 1] * half, along[..., 0] * half], axis=-1)
    return np.concatenate([line + aside, (line - aside)[..., ::-1, :]], axis=-2)


def ring(outer: Points, inner: Points) -> Points:
    """Return the outline of the area between two closed outlines.

    Args:
        outer: (n, 2).
        inner: (m, 2).

    Returns:
        (n + m + 2, 2).
    """
    return np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])


def _blur(stencil: NDArray[np.uint8], radius: float) -> _Stencil:
    """Blur a shape, 0 to 255, by `radius` pixels; large radii are computed on a coarser grid."""
    if radius < _SHARP:
        return stencil
    size, coarse = stencil.shape[::-1], max(1, int(radius / 1.5))
    if coarse > 1:
        small = [-(-side // coarse) for side in size]
        stencil = np.asarray(cv2.resize(stencil, small, interpolation=cv2.INTER_AREA), np.uint8)
    # In floating point, because OpenCV blurs bytes several times slower.
    blurred = cv2.GaussianBlur(stencil.astype(np.float32), (0, 0), radius / coarse)
    if coarse > 1:
        blurred = cv2.resize(blurred, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(blurred, np.float32)


class Canvas:
    """An image that shapes are drawn on, with oversampling.

    Coordinates are pixels of the finished image; colours are RGB in [0, 255].

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
    """

    def __init__(self, height: int, width: int, oversampling: int = 3) -> None:
        """Make a black canvas.

        Args:
            height: Height in pixels.
            width: Width in pixels.
            oversampling: Number of subpixels along a pixel's side.
        """
        self.height, self.width, self._scale = height, width, oversampling
        # One plane for each channel, so that arithmetic is on rows.
        self._pixels = np.zeros((3, height * oversampling, width * oversampling), np.float32)

    @property
    def detailed(self) -> bool:
        """Whether the image is large enough for single hairs."""
        return min(self.height, self.width) >= 192

    def gradient(self, top: ArrayLike, bottom: ArrayLike) -> None:
        """Cover the canvas with a vertical gradient.

        Args:
            top: Colour at the top.
            bottom: Colour at the bottom.
        """
        share = np.linspace(0, 1, self._pixels.shape[1], dtype=np.float32)
        first, last = np.asarray(top, np.float32)[:, None], np.asarray(bottom, np.float32)[:, None]
        self._pixels[:] = (first + share * (last - first))[:, :, None]

    def paste(self, other: Canvas) -> None:
        """Cover the canvas with another one, resized.

        Args:
            other: The other canvas.
        """
        for plane, source in zip(self._pixels, other._pixels, strict=True):
            cv2.resize(source, plane.shape[::-1], dst=plane, interpolation=cv2.INTER_LINEAR)

    def mask(self, shape: Shape, soft: float = 0) -> Mask:
        """Return the coverage of a shape, for the argument `within` of `fill`.

        Args:
            shape: The shape.
            soft: Blur of its edge in pixels.

        Returns:
            Coverage of the subpixels, in [0, 1].
        """
        whole = np.zeros(self._pixels.shape[1:], np.float32)
        found = self._coverage(shape, soft)
        if found is not None:
            region, coverage = found
            np.multiply(coverage, np.float32(1 / 255), out=whole[region])
        return whole

    def fill(
        self, shape: Shape, colour: ArrayLike, *, soft: float = 0, opacity: float = 1, within: Mask | None = None
    ) -> None:
        """Fill a shape.

        Args:
            shape: The shape.
            colour: The colour.
            soft: Blur of the edge in pixels.
            opacity: 0 to 1.
            within: Coverage that the shape is clipped to.
        """
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
        """Return the finished image, (height, width, 3) uint8 RGB."""
        size = (self.width, self.height)
        planes = [cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in self._pixels]
        return np.clip(np.rint(np.stack(planes, axis=-1)), 0, 255).astype(np.uint8)

    def _coverage(self, shape: Shape, soft: float) -> tuple[tuple[slice, slice], _Stencil] | None:
        """Return the rectangle of subpixels that a shape touches and their coverage; None outside the canvas."""
        outlines = [shape] if isinstance(shape, np.ndarray) and shape.ndim == 2 else shape
        blur = soft * self._scale
        # Only sharp edges are drawn on a still finer grid.
        finer = 1 if blur > 1 else -(-_EDGE // self._scale)
        factor = (self._scale * finer) << _FINE
        corners = [(outline * factor - (1 << _FINE - 1)).astype(np.int32) for outline in outlines]
        if not corners:
            return None
        left, top, width, height = cv2.boundingRect(corners[0] if len(corners) == 1 else np.concatenate(corners))
        # With a margin around the image, so that its border does not affect the blur.
        margin, unit = int(3 * blur) + 2, finer << _FINE
        columns = _Extent(left // unit, (left + width) // unit, margin, self._pixels.shape[2])
        rows = _Extent(top // unit, (top + height) // unit, margin, self._pixels.shape[1])
        if columns.empty or rows.empty:
            return None
        size = (columns.stop - columns.start, rows.stop - rows.start)
        stencil = np.zeros((size[1] * finer, size[0] * finer), np.uint8)
        offset = np.array([columns.start * unit, rows.start * unit], np.int32)
        for outline in corners:  # one at a time: together, the overlap of two would be outside
            cv2.fillPoly(stencil, [outline - offset], 255, lineType=cv2.LINE_8, shift=_FINE)
        if finer > 1:
            stencil = np.asarray(cv2.resize(stencil, size, interpolation=cv2.INTER_AREA), np.uint8)
        coverage = _blur(stencil, blur)
        return (rows.seen, columns.seen), coverage[rows.inside, columns.inside]


class _Extent:
    """The rows or columns from low to high that a shape touches on a canvas of `size` subpixels.

    `start` and `stop` include the margin, `seen` is the part on the canvas, `inside` is the same relative to `start`.
    """

    def __init__(self, low: int, high: int, margin: int, size: int) -> None:
        self.start = min(max(low - margin, -margin), size)
        self.stop = min(max(high + 1 + margin, 0), size + margin)
        first, last = max(self.start, 0), min(self.stop, size)
        self.empty = first >= last
        self.seen, self.inside = slice(first, last), slice(first - self.start, last - self.start)
