"""Drawings of head and shoulders, in which the stand-in detector of synthetic bundles finds a face."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

SKIN = (224, 178, 148)
BLUE, GREY, GREEN = (70, 110, 160), (128, 128, 128), (90, 140, 90)


def ellipse(image: Any, x: float, y: float, half_width: float, half_height: float, colour: Any) -> None:
    """Fill an ellipse around (x, y)."""
    cv2.ellipse(image, (round(x), round(y)), (round(half_width), round(half_height)), 0, 0, 360, colour, -1)


def drawn_portrait(
    height: int, width: int, x: float, y: float, half: float, skin: Any = SKIN, background: Any = BLUE
) -> Any:
    """Draw head and shoulders; the face is an ellipse around (x, y), 2 half wide and 2.6 half high.

    The eyes lie at y - 0.3 half.
    """
    image = np.full((height, width, 3), background, np.uint8)
    ellipse(image, x, y + 3.6 * half, 2.2 * half, 2 * half, (40, 60, 90))
    ellipse(image, x, y + 1.2 * half, 0.45 * half, 0.7 * half, [0.9 * c for c in skin])
    ellipse(image, x, y - 0.3 * half, 1.2 * half, 1.4 * half, (60, 40, 30))
    ellipse(image, x, y, half, 1.3 * half, skin)
    for side in (-0.42, 0.42):
        ellipse(image, x + side * half, y - 0.3 * half, 0.16 * half, 0.08 * half, (40, 30, 20))
    ellipse(image, x, y + 0.65 * half, 0.3 * half, 0.1 * half, (170, 60, 60))
    return image
