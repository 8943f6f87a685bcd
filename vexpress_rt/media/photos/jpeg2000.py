"""JPEG 2000: the size, and the tiles, packets and code-blocks for which the decoder allocates records.

Format: ITU-T T.800, annex A (codestream) and I (boxes).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from vexpress_rt.media.photos.encoded_photo import DamagedError, EncodedPhoto, Gap, RefusedError, missing_end, truncated

MAGIC = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")

_SIZ, _COD, _COC, _POC, _SOT, _SOD, _EOC = 0x51, 0x52, 0x53, 0x5F, 0x90, 0x93, 0xD9
_MAX_PIXELS = 16_000_000
_MAX_TILES = 2_000
_MAX_PACKETS = 1_000_000
_MIN_BLOCK = 8  # log2 of the smallest number of pixels per code-block
_MAX_BYTES = 32 * 2**20  # 6 s of arithmetic decoding
_MAX_MARKERS = 200_000
_END = b"\xff\xd9"


@dataclass
class _Coding:
    """The most expensive coding parameters in all headers."""

    layers: int = 1
    levels: int = 0
    block: int = 30  # log2 of its pixels
    precinct: int = 30  # log2 of its pixels
    end: int = 0  # declared end of the last tile-part
    parts_left: dict[int, int] = field(default_factory=dict)  # by tile: tile-parts that follow the last one present


def read(data: bytes) -> EncodedPhoto:
    """Read a JPEG 2000: see `containers.read`."""
    stream = data if data.startswith(MAGIC[0]) else _codestream(data)
    if len(stream) < 42 or stream[3] != _SIZ:
        raise truncated("before its size")
    right, bottom, left, top, wide, tall, tile_left, tile_top, components = struct.unpack_from(">IIIIIIIIH", stream, 8)
    width, height = right - left, bottom - top
    if not (wide and tall) or min(width, height) < 1:
        raise DamagedError("its size is zero")
    tiles = -(-(right - tile_left) // wide) * -(-(bottom - tile_top) // tall)
    coding = _read_coding(stream)
    _check(width * height, tiles, components, coding, len(data))
    missing = coding.end + len(_END) - len(stream)
    gap = None
    if missing > 0:
        there = sum(left <= 0 for left in coding.parts_left.values())
        if there < tiles:
            raise DamagedError(f"it is truncated: only {there} of its {tiles} tiles are there")
        data, gap = _filled(data, missing)
    return EncodedPhoto(
        kind="JPEG2000",
        width=width,
        height=height,
        data=data,
        # Coefficients as int32, the tile as bytes or 16 bits, and records of the code-blocks.
        memory=width * height * (4 + 2 + 1) * components,
        gap=gap,
    )


def _filled(data: bytes, missing: int) -> tuple[bytes, Gap]:
    """Append the end marker to `data`, whose last `missing` bytes are missing, and return it with the gap before it."""
    if 2 * len(data) > _MAX_BYTES:
        raise RefusedError(
            f"is a JPEG 2000 of {len(data)} bytes whose end is missing; expected at most {_MAX_BYTES // 2}: "
            "transfer it again"
        )
    data = data[: len(data) + min(0, missing - len(_END))]
    return data + _END, missing_end(len(data), max(0, missing - len(_END)))


def _codestream(data: bytes) -> bytes:
    at = 0
    for _ in range(1000):
        if at + 8 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= len(data):
            (length,), head = struct.unpack_from(">Q", data, at + 8), 16
        if name == b"jp2c":
            return data[at + head :]
        if length < head:
            break
        at += length
    raise truncated("before its pixels")


def _read_coding(stream: bytes) -> _Coding:
    """Read the markers of the main header and of every tile-part header."""
    coding, at, part_end = _Coding(), 2, 0
    wide = int.from_bytes(stream[40:42], "big") > 256
    for _ in range(_MAX_MARKERS):
        if at + 4 > len(stream) or stream[at] != 0xFF or stream[at + 1] == _EOC:
            return coding
        marker = stream[at + 1]
        if marker == _SOD:
            at = part_end
            continue
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        body = stream[at + 4 : at + 2 + length]
        if marker == _SOT and len(body) >= 6:
            size = int.from_bytes(body[2:6], "big")
            part_end = at + size if size >= 14 else len(stream)
            coding.end = part_end
            coding.parts_left[int.from_bytes(body[:2], "big")] = body[7] - body[6] - 1 if len(body) >= 8 else 0
        elif marker == _COD and len(body) >= 10:
            coding.layers = max(coding.layers, int.from_bytes(body[2:4], "big"))
            _add(coding, body[5:], bool(body[0] & 1))
        elif marker == _COC and len(body) >= 7 + wide:
            _add(coding, body[2 + wide :], bool(body[1 + wide] & 1))
        at += 2 + max(length, 2)
    raise RefusedError(f"is a JPEG 2000 of more than {_MAX_MARKERS} markers; expected fewer: save it as PNG or JPEG")


def _add(coding: _Coding, style: bytes, own_precincts: bool) -> None:
    """Add a coding style: levels, exponents of the code-block's sides minus 2, two bytes, then a byte per precinct."""
    coding.levels = max(coding.levels, style[0])
    block = (style[1] & 15) + (style[2] & 15) + 4
    if own_precincts:
        sides = style[5 : 6 + style[0]]
        precinct = min(((each & 15) + (each >> 4) for each in sides), default=30)
        coding.precinct, block = min(coding.precinct, precinct), min(block, precinct)
    coding.block = min(coding.block, block)


def _check(pixels: int, tiles: int, components: int, coding: _Coding, count: int) -> None:
    cells = components * (coding.levels + 1) * (tiles + (pixels >> coding.precinct))
    packets = cells * coding.layers
    for what, found, most in (
        ("pixels", pixels, _MAX_PIXELS),
        ("bytes", count, _MAX_BYTES),
        ("tiles", tiles, _MAX_TILES),
        ("packets", packets, _MAX_PACKETS),
    ):
        if found > most:
            raise RefusedError(f"is a JPEG 2000 of {found} {what}; expected at most {most}: save it as PNG or JPEG")
    if coding.block < _MIN_BLOCK:
        raise RefusedError(
            f"is a JPEG 2000 with code-blocks of {2**coding.block} pixels; expected at least {2**_MIN_BLOCK}: "
            "save it as PNG or JPEG"
        )
