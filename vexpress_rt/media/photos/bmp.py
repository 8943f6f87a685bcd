"""BMP: the size, and rows that are missing at the end of the file."""

from __future__ import annotations

import struct

from vexpress_rt.media.photos.encoded_photo import EncodedPhoto, RefusedError, missing_rows, truncated

MAGIC = b"BM"

# Pillow decodes runs in Python: 1 us per run, 0.1 us per pixel.
_MAX_RUN_BYTES = 6 * 2**20
_MAX_RUN_PIXELS = 25_000_000


def read(data: bytes) -> EncodedPhoto:
    """Read a BMP: see `containers.read`."""
    if len(data) < 26:
        raise truncated("before its size")
    (start, header), compression = struct.unpack_from("<II", data, 10), 0
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    elif len(data) >= 34:
        width, height, _, bits, compression = struct.unpack_from("<IiHHI", data, 18)
    else:
        raise truncated("before its pixels")
    height = abs(height)
    bands = 1 if bits <= 8 else 4
    encoded = EncodedPhoto(kind="BMP", width=width, height=height, data=data, memory=0, bands=bands)
    if compression in (1, 2):
        _check_runs(len(data), encoded.pixels)
        encoded.memory += 2 * encoded.pixels
    elif compression in (0, 3):
        stride = (width * bits + 31) // 32 * 4
        there = max(0, len(data) - start) // stride if stride else height
        if there < height and encoded.pixels < 2**31:
            # The lowest row comes first, so that a truncated file lacks the upper ones.
            encoded.notes = (missing_rows(there, height, "black"),)
            encoded.data = data[: start + there * stride] + bytes((height - there) * stride)
    return encoded


def _check_runs(count: int, pixels: int) -> None:
    if count > _MAX_RUN_BYTES or pixels > _MAX_RUN_PIXELS:
        raise RefusedError(
            f"is a run-length coded BMP of {count / 1e6:.1f} MB and {pixels / 1e6:.1f} million pixels; expected at "
            f"most {_MAX_RUN_BYTES / 1e6:.1f} MB and {_MAX_RUN_PIXELS / 1e6:.0f} million: save it as PNG or JPEG"
        )
