"""Pictures and encoded photos for tests of decoding."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from vexpress_rt.media.image import load_photo

ALL_ROWS = "photo: its last bytes are missing; all of its rows can be decoded"  # a note


def picture(height: int = 160, width: int = 120) -> np.ndarray:
    """Return coloured noise in blocks of 4 x 4 pixels, so that all rows of blocks differ."""
    small = np.random.default_rng(5).integers(140, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return small.repeat(4, axis=0).repeat(4, axis=1)


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(picture())).save(stream, kind, **options)
    return stream.getvalue()


def gradient(height: int = 40, width: int = 56) -> np.ndarray:
    """Return a smooth picture without symmetry, so that rotations, flips and channel swaps are visible."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 120 // (height + width)], -1).astype(np.uint8)


def load_image(source: Any) -> np.ndarray:
    """Return the pixels that `load_photo` decodes, (H, W, 3) uint8, without its notes."""
    return load_photo(source).pixels


def noise() -> Image.Image:
    """Return a picture of 256 rows and 200 columns, in which no row is like its neighbours."""
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (256, 200, 3), dtype=np.uint8))
