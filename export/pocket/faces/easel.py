"""What every part of a drawing is painted with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.pocket.faces.canvas import Canvas
from export.pocket.faces.people import Colour, Head, Person, Pose

_SHADOW = np.array([0.80, 0.68, 0.64])  # skin in the shade is redder


def tone(colour: Colour, factor: float, light: Colour = (255, 250, 240)) -> Colour:
    """Darker for a factor below 1; brighter above, by factor - 1 of the way to `light`."""
    c = np.asarray(colour, float)
    r, g, b = (c * factor if factor <= 1 else c + (np.asarray(light) - c) * (factor - 1)).tolist()
    return r, g, b


@dataclass(frozen=True)
class Easel:
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
    def light(self) -> Colour:
        """Skin where the light falls on it."""
        return tone(self.person.skin, 1.35)

    @property
    def shade(self) -> Colour:
        """Skin in the shade."""
        return self._shaded(1)

    @property
    def deep(self) -> Colour:
        """Skin in folds."""
        return self._shaded(2.2)

    def _shaded(self, strength: float) -> Colour:
        r, g, b = (np.array(self.person.skin) * _SHADOW**strength).tolist()
        return r, g, b
