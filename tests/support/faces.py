"""Faces as a detector returns them."""

from __future__ import annotations

import numpy as np

from vexpress_rt.types import Face


def face_at(x: float, y: float, half: float = 20.0) -> Face:
    """Return a face with its centre at (x, y) and a box of 2 * half pixels."""
    box = np.array([x - half, y - half, x + half, y + half], np.float32)
    offsets = np.array([[-0.4, -0.3], [0.4, -0.3], [0, 0.1], [-0.3, 0.5], [0.3, 0.5]], np.float32)
    return Face(box, 0.9, np.array([x, y], np.float32) + offsets * half)
