"""WebP: the chunks that affect pixels. The decoder allocates the picture when it opens the file.

Format: RFC 9649.
"""

from __future__ import annotations

import struct

from vexpress_rt.photos.encoded import (
    MAX_METADATA,
    DamagedError,
    EncodedPhoto,
    RefusedError,
    several_pictures,
    truncated,
)
from vexpress_rt.photos.orientation import find_orientation

_KEPT = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_METADATA_FLAGS = 0x2C  # profile, EXIF and XMP, which are removed
_MAX_CHUNKS = 10_000
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
    for name, body in _chunks(data):
        frames += name == b"ANMF"
        if name == b"EXIF":
            exif = exif or bytes(body[:MAX_METADATA])
        elif name == b"XMP ":
            xmp = xmp or bytes(body[:MAX_METADATA])
        elif name in _KEPT:
            sizes += [size] if (size := _size(name, body)) else []
            if name == b"VP8X" and len(body) >= 10:
                body = memoryview(bytes([body[0] & ~_METADATA_FLAGS & 0xFF, *body[1:]]))
            kept += [name, struct.pack("<I", len(body)), bytes(body), bytes(len(body) % 2)]
    if frames > 1:
        raise several_pictures("a WEBP")
    if not sizes:
        raise truncated("before its size")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    content = b"".join(kept)
    return EncodedPhoto(
        kind="WEBP",
        width=width,
        height=height,
        data=b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content,
        memory=width * height * _DECODING,
        orientation=find_orientation(exif, xmp),
    )


def _chunks(data: bytes) -> list[tuple[bytes, memoryview]]:
    view, at, found = memoryview(data), 12, []
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > len(data):
            raise DamagedError("it is truncated")
        found.append((name, view[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
        if len(found) > _MAX_CHUNKS:
            raise RefusedError(f"is a WebP of more than {_MAX_CHUNKS} chunks; expected fewer: save it anew")
    return found


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
