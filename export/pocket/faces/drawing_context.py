"""What every part of a drawing is painted with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from export.pocket.faces.canvas import Canvas, Mask, Points, ellipse
from export.pocket.faces.people import Colour, Person
from export.pocket.faces.poses import Head, Pose

Line = list[tuple[float, float]]

_SHADOW = np.array([0.80, 0.68, 0.64])  # skin in the shade is redder


def tone(colour: Colour, factor: float, light: Colour = (255, 250, 240)) -> Colour:
    """Darker for a factor below 1; brighter above, by factor - 1 of the way to `light`."""
    if factor > 1:
        return mix(colour, light, factor - 1)
    r, g, b = colour
    return r * factor, g * factor, b * factor


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour `share` of the way from the first to the second."""
    (r, g, b), (s, h, c) = first, second
    return r + share * (s - r), g + share * (h - g), b + share * (c - b)


def mirrored(right: Line) -> Line:
    """A closed outline from its right half, listed from top to bottom; points at x = 0 are not repeated."""
    return right + [(-x, y) for x, y in reversed(right) if x]


@dataclass(frozen=True)
class DrawingContext:
    """A canvas, who is on it, and how the head is held."""

    canvas: Canvas
    head: Head
    person: Person
    pose: Pose

    @property
    def unit(self) -> float:
        """Half the face's width, in pixels."""
        return self.head.unit

    @property
    def away(self) -> int:
        """Side that the light does not come from: 1 right, -1 left. Lights and shades are listed for 1."""
        return -self.person.light

    @cached_property
    def light(self) -> Colour:
        """Skin where the light falls on it."""
        return tone(self.person.skin, 1.3)

    @cached_property
    def shade(self) -> Colour:
        """Skin in the shade."""
        return self._shaded(1)

    @cached_property
    def deep(self) -> Colour:
        """Skin in folds."""
        return self._shaded(2.2)

    @cached_property
    def mouth_y(self) -> float:
        """Where the closed mouth is, in face coordinates."""
        return 0.8 + 0.25 * (self.person.length - 1)

    def glow(self, spots: list[tuple[Any, ...]], within: Mask, lift: float = 0.0) -> None:
        """Soft ellipses on the face: (x, y, half width, half height, colour, softness, opacity) each."""
        for x, y, half_width, half_height, colour, soft, opacity in spots:
            shape = self.head.place(ellipse(self.away * x, y, half_width, half_height, 24), lift)
            self.canvas.fill(shape, colour, soft=soft * self.unit, within=within, opacity=opacity)

    def _shaded(self, strength: float) -> Colour:
        r, g, b = (np.array(self.person.skin) * _SHADOW**strength).tolist()
        return r, g, b


def wave(points: Points, size: float, length: float, start: float) -> Points:
    """Points that swing sideways by `size`, once every `length`, more and more below `start`."""
    swing = size * np.clip(points[:, 1] - start, 0, 1) * np.sin(points[:, 1] * 2 * np.pi / length)
    return points + np.stack([swing, np.zeros(len(points))], axis=1)
