"""The canvas, the person and the pose of a drawing, and colours derived from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from export.pocket.faces.canvas import Canvas, Mask, Points, ellipse
from export.pocket.faces.people import Colour, Person
from export.pocket.faces.poses import Head, Pose

Line = list[tuple[float, float]]

_SHADOW = np.array([0.80, 0.68, 0.64])  # shaded skin is redder


def tone(colour: Colour, factor: float, light: Colour = (255, 250, 240)) -> Colour:
    """Make a colour darker or brighter.

    Args:
        colour: The colour.
        factor: Below 1, of all channels; above 1, factor - 1 is the share of `light`.
        light: Colour of the light.
    """
    if factor > 1:
        return mix(colour, light, factor - 1)
    r, g, b = colour
    return r * factor, g * factor, b * factor


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Mix two colours.

    Args:
        first: The first colour.
        second: The second colour.
        share: Share of the second colour, 0 to 1.
    """
    (r, g, b), (s, h, c) = first, second
    return r + share * (s - r), g + share * (h - g), b + share * (c - b)


def mirrored(right: Line) -> Line:
    """Return a closed outline from its right half.

    Args:
        right: From top to bottom; points at x = 0 are not repeated.
    """
    return right + [(-x, y) for x, y in reversed(right) if x]


@dataclass(frozen=True)
class DrawingContext:
    """The canvas, the person and the pose of a drawing.

    Attributes:
        canvas: The canvas.
        head: Maps face coordinates to pixels.
        person: The person.
        pose: The pose.
    """

    canvas: Canvas
    head: Head
    person: Person
    pose: Pose

    @property
    def unit(self) -> float:
        """Half the face width in pixels."""
        return self.head.unit

    @property
    def away(self) -> int:
        """Side opposite to the light: 1 right, -1 left. Coordinates of lights and shades are for 1."""
        return -self.person.light

    @cached_property
    def light(self) -> Colour:
        """Colour of lit skin."""
        return tone(self.person.skin, 1.3)

    @cached_property
    def shade(self) -> Colour:
        """Colour of shaded skin."""
        return self._shaded(1)

    @cached_property
    def deep(self) -> Colour:
        """Colour of skin in folds."""
        return self._shaded(2.2)

    @cached_property
    def mouth_y(self) -> float:
        """y of the closed mouth in face coordinates."""
        return 0.8 + 0.25 * (self.person.length - 1)

    def glow(self, spots: list[tuple[Any, ...]], within: Mask, lift: float = 0.0) -> None:
        """Draw soft ellipses on the face.

        Args:
            spots: (x, y, half width, half height, colour, softness, opacity) of each, in face coordinates.
            within: Coverage that the ellipses are clipped to.
            lift: Distance from the face.
        """
        for x, y, half_width, half_height, colour, soft, opacity in spots:
            shape = self.head.place(ellipse(self.away * x, y, half_width, half_height, 24), lift)
            self.canvas.fill(shape, colour, soft=soft * self.unit, within=within, opacity=opacity)

    def _shaded(self, strength: float) -> Colour:
        r, g, b = (np.array(self.person.skin) * _SHADOW**strength).tolist()
        return r, g, b


def wave(points: Points, size: float, length: float, start: float) -> Points:
    """Bend points sideways in waves that grow below `start`.

    Args:
        points: (n, 2), face coordinates.
        size: Amplitude.
        length: Length of a wave.
        start: y at which the waves begin.
    """
    swing = size * np.clip(points[:, 1] - start, 0, 1) * np.sin(points[:, 1] * 2 * np.pi / length)
    return points + np.stack([swing, np.zeros(len(points))], axis=1)
