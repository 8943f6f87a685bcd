"""TIFF: the tags of the first page that affect pixels, copied to a new directory.

Format: Adobe, TIFF 6.0; BigTIFF.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vexpress_rt.media.photos.encoded_photo import (
    MAX_METADATA,
    DamagedError,
    EncodedPhoto,
    RefusedError,
    check_scans,
    several_pictures,
    truncated,
)
from vexpress_rt.media.photos.jpeg import count_scans
from vexpress_rt.media.photos.orientation import find_orientation

MAGIC = (b"MM\0\x2a", b"II\x2a\0", b"MM\x2a\0", b"II\0\x2a", b"II\x2b\0")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_COUNTS, _PLANAR = 273, 274, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _FORMAT, _XMP = 322, 323, 324, 325, 339, 700
# The tags that libtiff and Pillow decode by. Those by number are fill order, predictor, colour map, extra samples,
# ink set, the tables of JPEG (347; 512 to 521 for old-style JPEG), and the options of YCbCr and fax.
_WANTED = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS, _SAMPLES, _ROWS, _STRIP_COUNTS, _PLANAR}
    | {_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _FORMAT}
    | {266, 292, 293, 317, 320, 332, 338, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532}
)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}
_MAX_STRIPS = 50_000
_MAX_VALUES = 200_000  # in any other tag; a 16-bit colour map has 196,608
_JPEG = (6, 7)
_RAW = 1


@dataclass
class _Entry:
    packed: bytes  # as in the file
    kind: int
    count: int
    offset: int  # of its values


@dataclass
class _Directory:
    order: str
    big: bool
    entries: dict[int, _Entry]
    next: int


def read(data: bytes) -> EncodedPhoto:
    """Read a TIFF: see `containers.read`."""
    directory = _read_directory(data)
    if directory.next:
        raise several_pictures("a TIFF")

    def values(tag: int, default: int) -> tuple[int, ...]:
        return _integers(data, directory, tag) or (default,)

    width, height = values(_WIDTH, 0)[0], values(_HEIGHT, 0)[0]
    samples = values(_SAMPLES, 1)[0]
    bits = values(_BITS, 1)
    compression = values(_COMPRESSION, _RAW)[0]
    if values(_FORMAT, 1)[0] == 3:
        raise RefusedError("is a TIFF of floating-point values (mode F); expected 8 or 16 bits: save it as PNG or JPEG")
    offsets = _integers(data, directory, _STRIP_OFFSETS) or _integers(data, directory, _TILE_OFFSETS)
    wide, tall = width, min(values(_ROWS, height)[0], height)
    if _TILE_WIDTH in directory.entries:
        wide, tall = max(wide, values(_TILE_WIDTH, 0)[0]), max(tall, values(_TILE_HEIGHT, 0)[0])
        if _STRIP_OFFSETS not in directory.entries:
            wide, tall = values(_TILE_WIDTH, 0)[0], values(_TILE_HEIGHT, 0)[0]
    piece = wide * tall
    if compression == _RAW and (wide, tall) != (width, height):
        _check_pieces(len(offsets), (width, height), (wide, tall), samples if values(_PLANAR, 1)[0] == 2 else 1)
    pixel_bits = max(sum(bits), bits[0] * samples)
    bands = 1 if pixel_bits <= 8 else 4  # 16-bit grey takes 2, or 4 if it is signed
    if compression in _JPEG:
        _check_jpeg(data, offsets, width * height, piece)
    # libtiff decodes a strip or tile at once, and converts YCbCr to four more bytes per pixel.
    buffered = 0 if compression == _RAW else 2 * piece * pixel_bits // 8 + 4 * piece * (values(_PHOTOMETRIC, 0)[0] == 6)
    xmp = directory.entries.get(_XMP)
    return EncodedPhoto(
        kind="TIFF",
        width=width,
        height=height,
        data=_written(data, directory),
        memory=buffered,
        bands=bands,
        orientation=_orientation(data, directory, xmp),
    )


def _orientation(data: bytes, directory: _Directory, xmp: _Entry | None) -> int:
    entry = directory.entries.get(_ORIENTATION)
    if entry is not None:
        found = _integers(data, directory, _ORIENTATION) if entry.count == 1 else ()
        return found[0] if found and found[0] in range(1, 9) else 1
    if xmp is None:
        return 1
    return find_orientation(xmp=data[xmp.offset : xmp.offset + min(xmp.count, MAX_METADATA)])


def _read_directory(data: bytes) -> _Directory:
    order = "<" if data[:1] == b"I" else ">"
    big = data[2] == 43
    head, each = (16, 20) if big else (8, 12)
    if len(data) < head:
        raise truncated("before its directory")
    (at,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, head // 2)
    counter = 8 if big else 2
    if at + counter > len(data):
        raise truncated("before its directory")
    (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, at)
    first = at + counter
    if first + count * each > len(data) or count > 65535:
        raise truncated("within its directory")
    entries: dict[int, _Entry] = {}
    for start in range(first, first + count * each, each):
        tag, kind, number = struct.unpack_from(f"{order}HH{'Q' if big else 'I'}", data, start)
        if (tag not in _WANTED and tag not in (_ORIENTATION, _XMP)) or kind not in _SIZES or tag in entries:
            continue
        room = 8 if big else 4
        offset = start + each - room
        if number * _SIZES[kind] > room:
            (offset,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, offset)
        entries[tag] = _Entry(data[start : start + each], kind, number, offset)
    after = first + count * each
    following = int.from_bytes(data[after : after + each - 4 - (8 if big else 4)], "little")
    return _Directory(order, big, entries, following)


def _integers(data: bytes, directory: _Directory, tag: int) -> tuple[int, ...]:
    """Return the values of a tag; () if it is missing or not of integers."""
    entry = directory.entries.get(tag)
    if entry is None or entry.kind not in _INTEGERS:
        return ()
    parts = tag in (_STRIP_OFFSETS, _TILE_OFFSETS, _STRIP_COUNTS, _TILE_COUNTS)
    most = _MAX_STRIPS if parts else _MAX_VALUES
    if entry.count > most:
        what = "strips or tiles" if parts else f"values of tag {tag}"
        raise RefusedError(f"is a TIFF of {entry.count} {what}; expected at most {most}: save it as PNG or JPEG")
    if entry.offset + entry.count * _SIZES[entry.kind] > len(data):
        raise truncated("within its directory's values")
    return struct.unpack_from(f"{directory.order}{entry.count}{_INTEGERS[entry.kind]}", data, entry.offset)


def _check_pieces(count: int, size: tuple[int, int], piece: tuple[int, int], planes: int) -> None:
    """Refuse surplus strips or tiles, which Pillow would decode on top of each other."""
    needed = -(-size[0] // max(piece[0], 1)) * -(-size[1] // max(piece[1], 1)) * planes
    if count > needed:
        raise DamagedError(f"it has {count} strips or tiles where its size needs {needed}")


def _check_jpeg(data: bytes, offsets: tuple[int, ...], pixels: int, piece: int) -> None:
    """Refuse JPEG strips or tiles with many scans."""
    scans, distinct = count_scans(data), len(set(offsets))
    if scans > distinct or distinct < len(offsets):
        check_scans(scans, pixels)


def _written(data: bytes, directory: _Directory) -> bytes:
    """Return `data` with a new directory of the wanted tags at its end."""
    big, order = directory.big, directory.order
    for tag in directory.entries:
        if tag in _WANTED:
            _integers(data, directory, tag)  # checks its count
    entries = [entry.packed for tag, entry in sorted(directory.entries.items()) if tag in _WANTED]
    at = len(data) + len(data) % 2
    head = data[:8] + struct.pack(f"{order}Q", at) if big else data[:4] + struct.pack(f"{order}I", at)
    count = struct.pack(f"{order}{'Q' if big else 'H'}", len(entries))
    return b"".join(
        [head, memoryview(data)[len(head) :], bytes(len(data) % 2), count, *entries, bytes(8 if big else 4)]
    )
