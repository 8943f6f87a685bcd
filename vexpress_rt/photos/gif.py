"""GIF: the first picture, without comments and other extensions.

Format: CompuServe, GIF89a.
"""

from __future__ import annotations

import struct

from vexpress_rt.photos.encoded import EncodedPhoto, RefusedError, several_pictures, truncated

MAGIC = (b"GIF87a", b"GIF89a")

_EXTENSION, _PICTURE, _CONTROL = 0x21, 0x2C, 0xF9
_MAX_BLOCKS = 1_000
_MAX_PIECES = 2_000_000  # encoders write 255 bytes per piece


def read(data: bytes) -> EncodedPhoto:
    """Read a GIF: see `containers.read`."""
    if len(data) < 13:
        raise truncated("before its size")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _table(flags)
    kept = [data[:at]]
    pictures = 0
    for _ in range(_MAX_BLOCKS):
        kind = data[at] if at < len(data) else 0x3B
        if kind == 0x3B:
            break
        if kind == _EXTENSION:
            end = _after_blocks(data, at + 2)
            if data[at + 1 : at + 2] == bytes([_CONTROL]) and not pictures:
                kept.append(data[at:end])
        elif kind == _PICTURE:
            pictures += 1
            if at + 10 > len(data):
                raise truncated("before its pixels")
            left, top, wide, tall, local = struct.unpack_from("<HHHHB", data, at + 1)
            end = _after_blocks(data, at + 11 + _table(local))
            if pictures == 1:
                kept.append(data[at:end])
                width, height = max(width, left + wide), max(height, top + tall)
        else:
            end = at + 1
        if pictures > 1:
            raise several_pictures("a GIF")
        at = end
    else:
        raise RefusedError(f"is a GIF of more than {_MAX_BLOCKS} blocks; expected a few: save it anew")
    if not pictures:
        raise truncated("before its pixels")
    return EncodedPhoto(
        kind="GIF", width=width, height=height, data=b"".join([*kept, b";"]), memory=width * height, bands=1
    )


def _table(flags: int) -> int:
    """Return the size in bytes of the colour table that `flags` declare."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    """Return the offset after the chain of data blocks at `at` and its terminating empty block."""
    for _ in range(_MAX_PIECES):
        if at >= len(data) or not data[at]:
            return min(at + 1, len(data))
        at += 1 + data[at]
    raise RefusedError(f"is a GIF of more than {_MAX_PIECES} data blocks in a row; expected fewer: save it anew")
