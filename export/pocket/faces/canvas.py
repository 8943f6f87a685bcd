"""Smooth shapes with sharp or soft edges, painted one over another."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]  # (n, 2), x then y
Mask = NDArray[np.float32]  # coverage in [0, 1]

_FINE = 8  # bits of a pixel in OpenCV's coordinates


def curve(points: ArrayLike, *, closed: bool = True, steps: int = 10) -> Points:
    """A Catmull-Rom spline through `points` (n, 2), `steps` points a span; two equal points in a row make a corner."""
    p = np.asarray(points, float)
    padded = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    before, start, end, after = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    bend = (2 * before - 5 * start + 4 * end - after) * t**2 + (3 * start - before - 3 * end + after) * t**3
    spline = (start + ((end - before) * t + bend) / 2).reshape(-1, 2)
    return spline if closed else np.concatenate([spline, p[-1:]])


def ellipse(x: float, y: float, half_width: float, half_height: float) -> Points:
    """Outline of an upright ellipse, (48, 2)."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([x + half_width * np.cos(angle), y + half_height * np.sin(angle)], axis=1)


def ribbon(line: Points, width: ArrayLike) -> Points:
    """Outline of a line (n, 2) that is `width` wide: a number, or (k,) numbers spread along it."""
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(np.linalg.norm(along, axis=1), 1e-9)[:, None]
    widths = np.atleast_1d(np.asarray(width, float))
    half = np.interp(np.linspace(0, 1, len(line)), np.linspace(0, 1, len(widths)), widths)[:, None] / 2
    return np.concatenate([line + normal * half, (line - normal * half)[::-1]])


def _blur(stencil: NDArray[np.uint8], radius: float) -> Mask:
    """A drawn shape, 0 or 255, as coverage, blurred by `radius` pixels; wide blurs on a coarser grid."""
    size, coarse = stencil.shape[::-1], max(1, int(radius / 4))
    coverage: Mask = stencil.astype(np.float32) / np.float32(255)
    if coarse > 1:
        small = [-(-side // coarse) for side in size]
        coverage = cv2.resize(coverage, small, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
    if radius > 0:
        coverage = cv2.GaussianBlur(coverage, (0, 0), radius / coarse).astype(np.float32, copy=False)
    if coarse > 1:
        coverage = cv2.resize(coverage, size, interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
    return coverage


class Canvas:
    """A picture of height x width pixels, painted `oversampling` times as fine and averaged in the end.

    Coordinates are pixels of the finished picture; colours are RGB, 0 to 255.
    """

    def __init__(self, height: int, width: int, oversampling: int = 3) -> None:
        self.height, self.width, self._scale = height, width, oversampling
        self._pixels = np.zeros((height * oversampling, width * oversampling, 3), np.float32)

    def gradient(self, top: ArrayLike, bottom: ArrayLike) -> None:
        """Cover everything, from the colour `top` to the colour `bottom`."""
        share = np.linspace(0, 1, len(self._pixels), dtype=np.float32)[:, None, None]
        self._pixels[:] = np.asarray(top) * (1 - share) + np.asarray(bottom) * share

    def mask(self, outline: Points, soft: float = 0) -> Mask:
        """What `fill` would cover, on the fine grid: to be passed as `within`."""
        whole = np.zeros(self._pixels.shape[:2], np.float32)
        found = self._coverage(outline, soft)
        if found is not None:
            region, coverage = found
            whole[region] = coverage
        return whole

    def fill(
        self, outline: Points, colour: ArrayLike, *, soft: float = 0, opacity: float = 1, within: Mask | None = None
    ) -> None:
        """Paint the inside of `outline` (n, 2), its edge blurred by `soft` pixels, where `within` lets it."""
        found = self._coverage(outline, soft)
        if found is None:
            return
        region, coverage = found
        share = coverage * np.float32(opacity)
        if within is not None:
            share *= within[region]
        target = self._pixels[region]
        target += share[..., None] * (np.asarray(colour, np.float32) - target)

    def image(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB."""
        small = cv2.resize(self._pixels, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return np.clip(np.round(small), 0, 255).astype(np.uint8)

    def _coverage(self, outline: Points, soft: float) -> tuple[tuple[slice, slice], Mask] | None:
        """The rectangle of the fine grid that a shape touches, and how much of each of its pixels is covered."""
        scaled, blur = outline * self._scale - 0.5, soft * self._scale
        margin = int(np.ceil(3 * blur)) + 2
        limits = np.array(self._pixels.shape[1::-1])
        low = np.floor(scaled.min(axis=0)).astype(int) - margin
        high = np.ceil(scaled.max(axis=0)).astype(int) + margin
        visible_low, visible_high = np.clip(low, -margin, limits), np.clip(high, 0, limits + margin)
        if (visible_low >= visible_high).any():
            return None
        # Drawn with a margin beyond the picture, so that the blur does not see the picture's edge.
        stencil = np.zeros(tuple((visible_high - visible_low)[::-1]), np.uint8)
        corners = np.round((scaled - visible_low) * (1 << _FINE)).astype(np.int32)
        cv2.fillPoly(stencil, [corners], 255, lineType=cv2.LINE_8, shift=_FINE)
        coverage = _blur(stencil, blur)
        start, stop = np.clip(visible_low, 0, limits), np.clip(visible_high, 0, limits)
        inner = tuple(slice(a, b) for a, b in zip(start - visible_low, stop - visible_low, strict=True))
        region = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        return (region[1], region[0]), coverage[inner[1], inner[0]]
