"""WebP: the chunks that affect pixels. The decoder allocates the picture when it opens the file.

Format: RFC 9649.
"""

from __future__ import annotations

import struct

from vexpress_rt.media.photos.encoded_photo import (
    ALL_ROWS,
    MAX_METADATA,
    EncodedPhoto,
    RefusedError,
    missing_end,
    several_pictures,
    truncated,
)
from vexpress_rt.media.photos.orientation import find_orientation

_KEPT = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_METADATA_FLAGS = 0x2C  # profile, EXIF and XMP, which are removed
_MAX_CHUNKS = 10_000
_MORE = 65_536  # extra bytes after a truncated picture; without them its decoder fails
_DECODING = 16  # bytes per pixel: two canvases, the decoder's picture, and the frame as bytes


def is_webp(data: bytes) -> bool:
    """Return whether a file is a WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read(data: bytes) -> EncodedPhoto:
    """Read a WebP: see `containers.read`."""
    exif = xmp = b""
    kept: list[bytes] = []
    sizes: list[tuple[int, int]] = []
    frames = 0
    chunks, missing = _chunks(data)
    cut_picture = missing > 0 and chunks[-1][0] in _KEPT
    for name, body in chunks:
        frames += name == b"ANMF"
        if name == b"EXIF":
            exif = exif or bytes(body[:MAX_METADATA])
        elif name == b"XMP ":
            xmp = xmp or bytes(body[:MAX_METADATA])
        elif name in _KEPT:
            sizes += [size] if (size := _size(name, body)) else []
            if name == b"VP8X" and len(body) >= 10:
                body = memoryview(bytes([body[0] & ~_METADATA_FLAGS & 0xFF, *body[1:]]))
            if missing and body is chunks[-1][1]:
                kept += [name, struct.pack("<I", len(body) + missing + _MORE), bytes(body)]
            else:
                kept += [name, struct.pack("<I", len(body)), bytes(body), bytes(len(body) % 2)]
    if frames > 1:
        raise several_pictures("a WEBP")
    if not sizes:
        raise truncated("before its size")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    content = b"".join(kept)
    gap = missing_end(12 + len(content), missing, more=_MORE) if cut_picture else None
    filled = missing + _MORE if gap else 0
    content += bytes((len(content) + filled) % 2)
    return EncodedPhoto(
        kind="WEBP",
        width=width,
        height=height,
        data=b"RIFF" + struct.pack("<I", 4 + len(content) + filled) + b"WEBP" + content,
        memory=width * height * _DECODING,
        orientation=find_orientation(exif, xmp),
        notes=(ALL_ROWS,) if missing and not cut_picture else (),
        gap=gap,
    )


def _chunks(data: bytes) -> tuple[list[tuple[bytes, memoryview]], int]:
    """Return (name, body) of the chunks, and the number of missing bytes of the last one."""
    view, at, found, missing = memoryview(data), 12, [], 0
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, at)
        found.append((name, view[at + 8 : at + 8 + length]))
        missing = max(0, at + 8 + length - len(data))
        at += 8 + length + length % 2
        if len(found) > _MAX_CHUNKS:
            raise RefusedError(f"is a WebP of more than {_MAX_CHUNKS} chunks; expected fewer: save it again")
    return found, missing


def _size(name: bytes, body: memoryview) -> tuple[int, int] | None:
    if name == b"VP8X" and len(body) >= 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if name == b"VP8 " and len(body) >= 10 and bytes(body[3:6]) == b"\x9d\x01\x2a":
        wide, tall = struct.unpack_from("<HH", body, 6)
        return wide & 0x3FFF, tall & 0x3FFF
    if name == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    return None
