"""Which reader takes which file."""

from __future__ import annotations

from collections.abc import Callable

from vexpress_rt.photos import bmff, bmp, gif, jpeg, jpeg2000, png, pnm, tiff, webp
from vexpress_rt.photos.parts import Parts

FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], Parts]], ...] = (
    (lambda data: data.startswith(jpeg.MAGIC), jpeg.read),
    (lambda data: data.startswith(png.MAGIC), png.read),
    (webp.is_webp, webp.read),
    (bmff.is_bmff, bmff.read),
    (lambda data: data.startswith(gif.MAGIC), gif.read),
    (lambda data: data.startswith(tiff.MAGIC), tiff.read),
    (lambda data: data.startswith(jpeg2000.MAGIC), jpeg2000.read),
    (pnm.is_pnm, pnm.read),
    (lambda data: data.startswith(bmp.MAGIC), bmp.read),
)


def read(data: bytes) -> Parts | None:
    """The parts of a photo; None for bytes that are none of `FORMATS`.

    Raises DamagedError for a container that breaks off, RefusedError for one that is not taken.
    """
    return next((reader(data) for knows, reader in _READERS if knows(data)), None)
