"""PNG: the chunks that affect pixels, and the decodable rows of a truncated file.

Format: W3C, Portable Network Graphics (third edition).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from vexpress_rt.media.photos.encoded_photo import (
    MAX_METADATA,
    DamagedError,
    EncodedPhoto,
    RefusedError,
    missing_rows,
    several_pictures,
    truncated,
)
from vexpress_rt.media.photos.orientation import find_orientation

MAGIC = b"\x89PNG\r\n\x1a\n"

_KEPT = (b"PLTE", b"tRNS")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # per pixel, by colour type
_MAX_CHUNKS = 200_000
_MAX_TEXTS = 8  # that may hold the orientation
_PIECE = 4096  # bytes that are inflated at once; an error loses at most one piece


@dataclass
class _Found:
    header: bytes = b""
    kept: dict[bytes, bytes] = field(default_factory=dict)
    pixels: list[memoryview] = field(default_factory=list)
    exif: bytes = b""
    raw_exif: bytes = b""
    xmp: bytes = b""
    animated: int = 0  # frames of the animation
    frame_first: bool = False  # fcTL precedes IDAT, so that IDAT is the animation's first frame
    texts: int = 0
    bad: list[str] = field(default_factory=list)  # names of chunks with a wrong checksum
    intact: int | None = None  # bytes of IDAT before the first chunk with a wrong checksum
    ended: bool = False


def read(data: bytes) -> EncodedPhoto:
    """Read a PNG: see `containers.read`."""
    found = _read_chunks(data)
    if not found.pixels:
        raise truncated("before its pixels")
    if found.animated + (not found.frame_first) > 1:
        raise several_pictures("a PNG")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", found.header)
    if colour not in _SAMPLES:
        raise DamagedError(f"it has the colour type {colour}, which PNG does not define")
    bands = 1 if colour in (0, 3) and depth <= 8 else 2 if colour == 0 else 4
    notes = [f"photo: the checksum of its {name} chunk is wrong; the chunk is skipped" for name in found.bad[:3]]
    encoded = EncodedPhoto(
        kind="PNG",
        width=width,
        height=height,
        data=_written(found),
        memory=0,
        bands=bands,
        orientation=find_orientation(found.exif or found.raw_exif, found.xmp),
        notes=tuple(notes),
    )
    if not interlaced:
        bare = replace(found, pixels=[])
        # The repair keeps these notes and adds its own.
        encoded.repair = partial(_repaired, replace(encoded, data=b""), bare)
    if found.intact is not None:
        encoded.notes += ("photo: the checksum of its pixels is wrong; they are used as they are",)
    if not found.ended:
        encoded.notes += (missing_rows(height, height, "black"),)
    return encoded


def _read_chunks(data: bytes) -> _Found:
    found, closed = _Found(), False
    for name, body, right in _chunks(data, found):
        if name == b"IHDR" and not found.header:
            if not right or len(body) != 13:
                raise DamagedError("its header's checksum is wrong")
            found.header = bytes(body)
        elif not found.header:
            raise DamagedError("it does not begin with its header")
        elif name == b"IDAT" and not closed:
            if not right and found.intact is None:
                found.intact = sum(map(len, found.pixels))
            found.pixels.append(body)
        elif name == b"IEND":
            found.ended = True
            break
        else:
            closed = bool(found.pixels)
            _keep(found, name, body, right)
    if not found.header:
        raise truncated("before its header")
    return found


def _chunks(data: bytes, found: _Found) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Yield (name, body, whether the checksum is right) of each chunk; a truncated last IDAT as far as it goes."""
    view, at = memoryview(data), len(MAGIC)
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if not name.isalpha():
            return
        if end > len(data):
            if name == b"IDAT":
                yield name, view[at + 8 :], True
            return
        right = end + 4 > len(data) or zlib.crc32(view[at + 4 : end]) == int.from_bytes(data[end : end + 4], "big")
        yield name, view[at + 8 : end], right
        at = end + 4
    raise RefusedError(f"is a PNG of more than {_MAX_CHUNKS} chunks; expected fewer: save it again")


def _keep(found: _Found, name: bytes, body: memoryview, right: bool) -> None:
    if not right:
        if name == b"PLTE":
            raise DamagedError("its palette's checksum is wrong")
        found.bad.append(name.decode("ascii"))
    elif name in _KEPT and name not in found.kept and not found.pixels:
        if len(body) > 768:
            raise DamagedError(f"its {name.decode('ascii')} chunk has {len(body)} bytes; expected at most 768")
        found.kept[name] = bytes(body)
    elif name == b"eXIf" and len(body) <= MAX_METADATA:
        found.exif = bytes(body)
    elif name in _TEXTS:
        _keep_text(found, name, body)
    elif name == b"acTL" and len(body) >= 8 and not found.pixels and int.from_bytes(body[:4], "big") <= 2**31:
        found.animated = int.from_bytes(body[:4], "big")
    elif name == b"fcTL" and not found.pixels:
        found.frame_first = True


def _keep_text(found: _Found, name: bytes, body: memoryview) -> None:
    """Keep the two texts that can hold the orientation: ImageMagick's hexadecimal EXIF, and XMP."""
    key, _, rest = bytes(body[:MAX_METADATA]).partition(b"\0")
    if key not in (b"Raw profile type exif", b"XML:com.adobe.xmp") or found.texts == _MAX_TEXTS:
        return
    found.texts += 1
    packed = name == b"zTXt"
    if name == b"iTXt":
        packed, rest = rest[:1] == b"\1", (*rest[2:].split(b"\0", 2), b"", b"")[2]
    elif packed:
        rest = rest[1:]
    if packed:
        try:
            rest = zlib.decompressobj().decompress(rest, MAX_METADATA)
        except zlib.error:
            return
    if key == b"XML:com.adobe.xmp":
        found.xmp = rest
        return
    try:
        found.raw_exif = bytes.fromhex("".join(rest.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return


def _chunk(name: bytes, *pieces: bytes | memoryview) -> list[bytes | memoryview]:
    checksum = zlib.crc32(name)
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    return [struct.pack(">I", sum(map(len, pieces))), name, *pieces, struct.pack(">I", checksum)]


def _written(found: _Found) -> bytes:
    parts = [MAGIC, *_chunk(b"IHDR", found.header)]
    for name, body in found.kept.items():
        parts += _chunk(name, body)
    return b"".join([*parts, *_chunk(b"IDAT", *found.pixels), *_chunk(b"IEND")])


def _repaired(encoded: EncodedPhoto, found: _Found, failed: EncodedPhoto) -> EncodedPhoto:
    """Replace the rows of `failed` that cannot be decoded by black ones."""
    row = 1 + (encoded.width * found.header[8] * _SAMPLES[found.header[9]] + 7) // 8
    rows, pieces = _whole_rows(failed.take(), found.intact, row, encoded.height)
    note = missing_rows(rows, encoded.height, "black")
    if found.ended:
        note = note.replace("its last bytes are missing", "its pixels are damaged")
    content = _written(replace(found, pixels=pieces))
    return replace(encoded, data=content, repair=None, notes=(*encoded.notes, note))


def _whole_rows(data: bytes, intact: int | None, row: int, height: int) -> tuple[int, list[memoryview]]:
    """Return the number of complete rows of `row` bytes, and these rows compressed again with zeros for the others."""
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big") if intact is None else intact
    # Without zlib's header the final checksum, which may be the damaged part, is not verified.
    packed = memoryview(data)[start + 2 : start + length]
    unpacker, packer = zlib.decompressobj(-zlib.MAX_WBITS), zlib.compressobj(1)
    pieces: list[bytes] = []
    rows, rest = 0, b""
    for piece in _inflated(unpacker, packed, row * max(1, height // 256)):
        rest += piece
        whole = min(len(rest) // row, height - rows)
        pieces.append(packer.compress(rest[: whole * row]))
        rows, rest = rows + whole, rest[whole * row :]
        if rows == height:
            break
    left = (height - rows) * row
    pieces += [packer.compress(bytes(min(2**20, left - at))) for at in range(0, left, 2**20)]
    return rows, [memoryview(piece) for piece in [*pieces, packer.flush()] if piece]


def _inflated(unpacker: zlib._Decompress, packed: memoryview, most: int) -> Iterator[bytes]:
    """Inflate `packed` up to its end or an error; yield at most `most` bytes at once."""
    for at in range(0, len(packed), _PIECE):
        piece: bytes | memoryview = packed[at : at + _PIECE]
        while True:
            try:
                out = unpacker.decompress(piece, most)
            except zlib.error:
                return
            if out:
                yield out
            piece = unpacker.unconsumed_tail
            if unpacker.eof or not (out or piece):
                break
            if not piece and len(out) < most:
                break
        if unpacker.eof:
            return
