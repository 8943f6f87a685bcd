"""Curves over time, drawn at four times the size and scaled down, so that they are smooth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from demo.lips import Curve

Colour = tuple[int, int, int]

PAPER, INK, FAINT = (250, 249, 246), (34, 34, 38), (104, 104, 112)
HEARD, SEEN = (74, 118, 168), (214, 92, 30)
_PANEL, _UNDER, _WAVE, _LEADER = (240, 240, 236), (198, 214, 232), (150, 152, 160), (188, 188, 184)

_FINE = 4  # oversampling
_PADDING = 6  # pixels above an openness of 1 and below an openness of 0


class Chart:
    """A panel whose horizontal axis is time.

    Args:
        width: Pixels.
        height: Pixels.
        count: Number of frames that the width represents.
        ground: Background colour.
    """

    def __init__(self, width: int, height: int, count: int, ground: Colour = _PANEL) -> None:
        self.width, self.height, self.count = width, height, count
        self._image = Image.new("RGB", (width * _FINE, height * _FINE), ground)
        self._draw = ImageDraw.Draw(self._image)

    def image(self) -> Image.Image:
        """Return the chart as a picture of (width, height) pixels."""
        return self._image.reduce(_FINE)

    def across(self, frame: float) -> float:
        """Return the horizontal position of a frame in pixels."""
        return (frame + 0.5) * self.width / self.count

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float) -> None:
        """Draw a line through points in pixels."""
        self._draw.line([_fine(point) for point in points], colour, round(width * _FINE), joint="curve")

    def waveform(self, samples: NDArray[np.floating[Any]], per_frame: float) -> None:
        """Draw samples (N,), of which `per_frame` last one frame; the loudest sample fills the height."""
        edges = np.linspace(0, self.count * per_frame, self.width + 1).round().astype(int)
        loudest = max(float(abs(samples).max()), 1e-9)
        for x, (start, stop) in enumerate(pairwise(edges.tolist())):
            piece = (1 - samples[start : max(stop, start + 1)] / loudest) * self.height / 2
            if piece.size:
                self.line([(x + 0.5, float(piece.min()) - 0.5), (x + 0.5, float(piece.max()) + 0.5)], _WAVE, 1)

    def heard(self, openness: Curve) -> None:
        """Draw the expected openness by frame as a filled curve."""
        points = self._points(openness)
        ends = [(points[-1][0], self.height), (points[0][0], self.height)]
        self._draw.polygon([_fine(point) for point in [*points, *ends]], _UNDER)
        self.line(points, HEARD, 1.5)

    def seen(self, openness: Curve, moments: Sequence[int]) -> None:
        """Draw the measured openness by frame, with gaps where it is NaN and dots at `moments`."""
        points = self._points(openness)
        known = np.flatnonzero(np.isfinite(openness))
        for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if known.size else ():
            self.line([points[frame] for frame in run], SEEN, 2)
        for x, y in (points[frame] for frame in moments if np.isfinite(openness[frame])):
            self.line([(x, y), (x, self.height)], _LEADER, 1.5)
            self._draw.ellipse([_fine((x - 4, y - 4)), _fine((x + 4, y + 4))], SEEN, PAPER, _FINE)

    def leaders(self, moments: Sequence[int], ends: Sequence[float]) -> None:
        """Draw lines from moments at the top to positions at the bottom, in pixels from the left."""
        for frame, end in zip(moments, ends, strict=True):
            self.line([(self.across(frame), 0), (end, self.height)], _LEADER, 1.5)

    def _points(self, openness: Curve) -> list[tuple[float, float]]:
        """Return the curve's points in pixels, with y NaN where the openness is."""
        room = self.height - 2 * _PADDING
        heights = self.height - _PADDING - np.clip(openness, 0, 1 + _PADDING / room) * room
        return [(self.across(frame), y) for frame, y in enumerate(heights.tolist())]


def _fine(point: tuple[float, float]) -> tuple[float, float]:
    return point[0] * _FINE, point[1] * _FINE
