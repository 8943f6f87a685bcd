"""The choice of the reader for a photo, by its first bytes."""

from __future__ import annotations

from collections.abc import Callable

from vexpress_rt.media.photos import bmff, bmp, gif, jpeg, jpeg2000, png, pnm, tiff, webp
from vexpress_rt.media.photos.encoded_photo import EncodedPhoto

FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], EncodedPhoto]], ...] = (
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


def read(data: bytes) -> EncodedPhoto | None:
    """Read the container of a photo.

    Args:
        data: The bytes of the file.

    Returns:
        The photo for its decoder; None for bytes in none of `FORMATS`.

    Raises:
        DamagedError: The container is truncated or malformed.
        RefusedError: The photo is of a kind or size that is not supported.
    """
    return next((reader(data) for knows, reader in _READERS if knows(data)), None)
