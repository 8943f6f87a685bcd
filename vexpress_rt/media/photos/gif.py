"""GIF: the first picture, without comments and other extensions.

Format: CompuServe, GIF89a.
"""

from __future__ import annotations

import struct

from vexpress_rt.media.photos.encoded_photo import (
    ALL_ROWS,
    DamagedError,
    EncodedPhoto,
    RefusedError,
    missing_rows,
    several_pictures,
    truncated,
)

MAGIC = (b"GIF87a", b"GIF89a")

_EXTENSION, _PICTURE, _CONTROL = 0x21, 0x2C, 0xF9
_MAX_BLOCKS = 1_000
_MAX_PIXELS = 100_000_000  # of a picture whose missing end is filled
_MAX_CUT = 2**22  # bytes of codes in a truncated picture, which are counted in about 3 s
_MAX_PIECES = 2_000_000  # encoders write 255 bytes per piece


def read(data: bytes) -> EncodedPhoto:
    """Read a GIF: see `containers.read`."""
    if len(data) < 13:
        raise truncated("before its size")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _table(flags)
    kept = [data[:at]]
    pictures = 0
    notes: tuple[str, ...] = ()
    for _ in range(_MAX_BLOCKS):
        if at >= len(data):
            notes = notes or (ALL_ROWS,)
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
                start = at + 11 + _table(local)
                if end == len(data) and 0 < wide * tall <= _MAX_PIXELS and (codes := _cut_codes(data, start)):
                    codes, note = _filled(codes, data[start - 1], wide, tall)
                    kept[-1], notes = data[at:start] + _in_blocks(codes), (note,)
                width, height = max(width, left + wide), max(height, top + tall)
        else:
            end = at + 1
        if pictures > 1:
            raise several_pictures("a GIF")
        at = end
    else:
        raise RefusedError(f"is a GIF of more than {_MAX_BLOCKS} blocks; expected a few: save it again")
    if not pictures:
        raise truncated("before its pixels")
    return EncodedPhoto(
        kind="GIF",
        width=width,
        height=height,
        data=b"".join([*kept, b";"]),
        memory=width * height,
        bands=1,
        notes=notes,
    )


def _table(flags: int) -> int:
    """Return the size in bytes of the colour table that `flags` declare."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _cut_codes(data: bytes, at: int) -> bytes:
    """Return the content of the chain of data blocks at `at` if its terminating empty block is missing, or b""."""
    pieces: list[bytes] = []
    for _ in range(_MAX_PIECES):
        if at >= len(data):
            return b"".join(pieces)
        if not data[at]:
            break
        pieces.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return b""


def _in_blocks(codes: bytes) -> bytes:
    """Split `codes` into data blocks."""
    pieces = [codes[at : at + 255] for at in range(0, len(codes), 255)]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def _filled(codes: bytes, size: int, width: int, height: int) -> tuple[bytes, str]:
    """Complete truncated LZW codes with pixels of index 0; return the codes and the note about it."""
    if not 1 <= size <= 8:
        raise DamagedError(f"its pixels have {size} bits; expected 1 to 8")
    if len(codes) > _MAX_CUT:
        raise RefusedError(
            f"is a GIF whose end is missing after {len(codes)} bytes; expected at most {_MAX_CUT}: transfer it again"
        )
    pixels, bits = _follow_codes(codes, size, width * height)
    note = missing_rows(pixels // width, height, "blank")
    whole = bytearray(codes[: bits // 8])
    if bits % 8:
        whole.append(codes[bits // 8] & (1 << bits % 8) - 1)
    return bytes(whole) + bytes((width * height - pixels) * 12 // 8 + 2), note


def _follow_codes(codes: bytes, size: int, wanted: int) -> tuple[int, int]:
    """Return how many of `wanted` pixels the complete codes decode to, and the bits of these codes."""
    clear = 1 << size
    lengths = [1] * clear + [0, 0]  # number of pixels by code
    width, last, pixels, used = size + 1, 0, 0, 0
    held = bits = at = 0
    while pixels < wanted:
        while bits < width:
            if at == len(codes):
                return pixels, used
            held |= codes[at] << bits
            at, bits = at + 1, bits + 8
        code = held & (1 << width) - 1
        if code == clear + 1:
            break
        held, bits, used = held >> width, bits - width, used + width
        if code == clear:
            del lengths[clear + 2 :]
            width, last = size + 1, 0
            continue
        if code > len(lengths) - (not last) or code == len(lengths) == 4096:
            raise DamagedError("its pixels are damaged")
        length = lengths[code] if code < len(lengths) else last + 1
        if last and len(lengths) < 4096:
            lengths.append(last + 1)
            if len(lengths) == 1 << width and width < 12:
                width += 1
        pixels, last = pixels + length, length
    return min(pixels, wanted), used


def _after_blocks(data: bytes, at: int) -> int:
    """Return the offset after the chain of data blocks at `at` and its terminating empty block."""
    for _ in range(_MAX_PIECES):
        if at >= len(data) or not data[at]:
            return min(at + 1, len(data))
        at += 1 + data[at]
    raise RefusedError(f"is a GIF of more than {_MAX_PIECES} data blocks in a row; expected fewer: save it again")
