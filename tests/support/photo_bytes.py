"""Pictures and encoded photos for tests of decoding."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def picture(height: int = 160, width: int = 120) -> np.ndarray:
    """Noise in blocks of 4 x 4 pixels, so that no two rows of blocks are alike and nothing is grey."""
    small = np.random.default_rng(5).integers(140, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return small.repeat(4, axis=0).repeat(4, axis=1)


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(picture())).save(stream, kind, **options)
    return stream.getvalue()


def gradient(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth picture without symmetry, so that any turn, flip or channel swap shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 120 // (height + width)], -1).astype(np.uint8)
