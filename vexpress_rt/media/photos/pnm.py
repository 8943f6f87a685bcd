"""PBM, PGM and PPM, plain and raw. Pillow decodes text and values of other than 8 bits one by one in Python.

Format: Netpbm's pbm(5), pgm(5), ppm(5). Values are scaled as Pillow scales them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.media.photos.encoded_photo import DamagedError, EncodedPhoto, missing_rows
from vexpress_rt.types import UInt8

# magic: (values per pixel, whether they are text, whether the header has a largest value)
_KINDS = {
    b"P1": (1, True, False),
    b"P2": (1, True, True),
    b"P3": (3, True, True),
    b"P4": (1, False, False),
    b"P5": (1, False, True),
    b"P6": (3, False, True),
}
_TOKEN = re.compile(rb"(?:[ \t\n\v\f\r]|#[^\r\n]*[\r\n])*([0-9]{1,10})(?=[ \t\n\v\f\r#])")
_SPACE = re.compile(rb"[ \t\n\v\f\r]")
_COMMENT = re.compile(rb"#[^\r\n]*(?:[\r\n]|\Z)")
_BLOCK = 2**20
_MAX_COMMENTS = 1_000_000
_MAX_HEADER = 2**16
_WORKING = 32 * _BLOCK  # bytes of memory per block


def is_pnm(data: bytes) -> bool:
    """Return whether a file is a PBM, PGM or PPM."""
    return data[:2] in _KINDS and data[2:3] in (b" ", b"\t", b"\n", b"\v", b"\f", b"\r")


def read(data: bytes) -> EncodedPhoto:
    """Read a PBM, PGM or PPM: see `containers.read`."""
    bands, plain, scaled = _KINDS[data[:2]]
    numbers, at = [], 2
    for _ in range(3 if scaled else 2):
        token = _TOKEN.match(data, at, _MAX_HEADER)
        if token is None:
            raise DamagedError("its header is not a size and a largest value")
        numbers.append(int(token[1]))
        at = token.end()
    width, height, most = (*numbers, 1)[:3]
    at += 1  # one white space
    if not 0 < most < 65536:
        raise DamagedError(f"its largest value is {most}; expected 1 to 65535")
    encoded = EncodedPhoto(kind="PPM", width=width, height=height, data=data, memory=_WORKING, bands=0)
    if plain:
        encoded.fill = partial(_fill_plain, at=at, bands=bands, most=most, bits=not scaled)
        return encoded
    stride = width * bands * (2 if most > 255 else 1) if scaled else (width + 7) // 8
    encoded.fill = partial(_fill_raw, at=at, stride=stride, bands=bands, most=most, bits=not scaled)
    return encoded


def _scale(most: int, bands: int) -> UInt8:
    """Return the 8-bit value of each stored value, (most + 1,) uint8."""
    if bands == 1 and most > 255:  # Pillow scales these to 16 bits first
        return np.array([round(round(value / most * 65535) / 257) for value in range(most + 1)], np.uint8)
    return np.array([round(value / most * 255) for value in range(most + 1)], np.uint8)


def _fill_raw(data: bytes, out: UInt8, *, at: int, stride: int, bands: int, most: int, bits: bool) -> tuple[str, ...]:
    height, width, _ = out.shape
    rows = min(height, (len(data) - at) // stride)
    table = _scale(most, bands)
    step = max(1, _BLOCK // stride)
    out[rows:] = 0
    for top in range(0, rows, step):
        count = min(step, rows - top)
        packed = np.frombuffer(data, np.uint8, count * stride, at + top * stride).reshape(count, stride)
        if bits:
            values: NDArray[Any] = 1 - np.unpackbits(packed, axis=1)[:, :width]
        else:
            values = packed.view(">u2") if most > 255 else packed
        out[top : top + count] = table[np.minimum(values, most)].reshape(count, width, bands)
    return () if rows == height else (missing_rows(rows, height, "black"),)


def _fill_plain(data: bytes, out: UInt8, *, at: int, bands: int, most: int, bits: bool) -> tuple[str, ...]:
    height, width, _ = out.shape
    table = _scale(most, bands)
    flat = out.reshape(-1, 1) if bands == 3 else out.reshape(-1, 3)
    done = 0
    for block in _blocks(data, at):
        left = len(flat) - done
        values = _plain_bits(block, left) if bits else _plain_numbers(block, left, most)
        flat[done : done + len(values)] = table[values][:, None]
        done += len(values)
        if done == len(flat):
            return ()
    rows = done // (width * bands)
    out[rows:] = 0
    return (missing_rows(rows, height, "black"),)


def _blocks(data: bytes, at: int) -> Iterator[bytes]:
    """Yield `data` from offset `at` without comments, in blocks of complete values."""
    if comments := data.count(b"#", at):
        if comments > _MAX_COMMENTS:
            raise DamagedError(f"it has {comments} comments; expected at most {_MAX_COMMENTS}")
        data, at = _COMMENT.sub(b"", data[at:]), 0
    while at < len(data):
        end = _SPACE.search(data, at + _BLOCK)
        yield data[at : (at := end.end() if end else len(data))]


def _plain_bits(block: bytes, most: int) -> UInt8:
    """Return the first `most` bits of a block, 1 for white."""
    digits = np.frombuffer(b"".join(block.split())[:most], np.uint8)
    if np.any(digits >> 1 != ord("0") >> 1):
        raise DamagedError("it has a value that is neither 0 nor 1")
    bits: UInt8 = np.bitwise_xor(digits & np.uint8(1), np.uint8(1))
    return bits


def _plain_numbers(block: bytes, count: int, most: int) -> NDArray[np.int64]:
    """Return the first `count` numbers of a block. Raises DamagedError for one above `most`."""
    if odd := block.translate(None, b"0123456789 \t\n\v\f\r"):
        raise DamagedError(f"it has {odd[:10]!r} among its values")
    values: NDArray[np.int64] = np.fromstring(block, np.int64, sep=" ") if block.strip() else np.zeros(0, np.int64)
    values = values[:count]
    if values.size and (values.max() > most or values.min() < 0):
        raise DamagedError(f"it has a value above the largest that it declares, {most}")
    return values
