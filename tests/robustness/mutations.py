"""Mutations of files: of any bytes, and of the blocks of known formats."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

from tests.robustness.structures import Block, blocks

LARGEST = 4 << 20  # bytes of an input
_BOUNDARIES = (0, 1, 2, 3, 7, 8, 9, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_WIDE = (*_BOUNDARIES, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
# Strings that a reader must not follow, or that once caused a failure.
TOKENS = (
    b"../canary/secret.wav", b"file:../canary/secret.wav", b"concat:../canary/secret.wav|../canary/secret.wav",
    b"../canary/secret.bin", b"subfile,,start,0,end,9,,:../canary/secret.wav", b"http://127.0.0.1:9/x", b"%s%n%99999d",
    b"\x1b]0;title\x07\x1b[2J", b"\xff\xfe\x00\xd8", b"NaN", b"inf", b"1e999", b"-0", b"\x00" * 64, b"A" * 5000,
    b"\xed\xa0\x80", b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f", b"LIST\xff\xff\xff\x7fINFO", b"APETAGEX", b"TAG" + b"x" * 125,
)  # fmt: skip


def mutate(chance: random.Random, content: bytes, others: Sequence[bytes], tokens: Sequence[bytes] = TOKENS) -> bytes:
    """Return `content` with one to eight changes.

    Args:
        chance: Random numbers.
        content: Bytes of a file.
        others: Files of the same kind, from which pieces are taken.
        tokens: Strings to insert.
    """
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 8))):
        operation = chance.choice(_STRUCTURED if chance.random() < 0.5 else _PLAIN)
        operation(chance, data, chance.choice(others) if others else content, tokens)
        if not data:
            data += chance.choice(tokens)
    del data[LARGEST:]
    return bytes(data)


Operation = Callable[[random.Random, bytearray, bytes, Sequence[bytes]], None]


def _place(chance: random.Random, length: int) -> int:
    """Return a random offset: half of the time in the header, which has most of the sizes and counts."""
    where = chance.random()
    if where < 0.5:
        return chance.randrange(min(length, 512) or 1)
    if where < 0.65:
        return max(0, length - 1 - chance.randrange(min(length, 512) or 1))
    return chance.randrange(length or 1)


def _size(chance: random.Random, most: int) -> int:
    return min(most, chance.choice((1, 2, 4, 8, 16, 64, 256, 4096, 65536)))


def _flip(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = _place(chance, len(data))
        if at < len(data):
            data[at] ^= 1 << chance.randrange(8)


def _byte(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    at = _place(chance, len(data))
    data[at : at + 1] = bytes([chance.randrange(256)])


def _integer(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    width, order = chance.choice((1, 2, 4, 4, 8)), chance.choice(("big", "little"))
    value = (chance.choice(_WIDE) + chance.choice((-1, 0, 0, 0, 1))) % 256**width
    at = _place(chance, len(data))
    data[at : at + width] = value.to_bytes(width, "big" if order == "big" else "little")


def _real(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    value = chance.choice((float("nan"), float("inf"), -1e300, 1e-310, -0.0, 3.4e38))
    at, pattern = _place(chance, len(data)), chance.choice(("<d", ">d"))
    data[at : at + 8] = struct.pack(pattern, value)


def _insert(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    at = _place(chance, len(data))
    data[at:at] = chance.choice(tokens) if chance.random() < 0.5 else chance.randbytes(_size(chance, 256))


def _overwrite(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    at, piece = _place(chance, len(data)), chance.choice(tokens)
    data[at : at + len(piece)] = piece


def _remove(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    at = _place(chance, len(data))
    del data[at : at + _size(chance, len(data))]


def _repeat(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    at = _place(chance, len(data))
    piece = bytes(data[at : at + _size(chance, len(data))])
    data[at:at] = piece * chance.choice((1, 1, 2, 16, 256))


def _move(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    at, to = _place(chance, len(data)), _place(chance, len(data))
    piece = data[at : at + _size(chance, len(data))]
    data[to : to + len(piece)] = piece


def _truncate(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    del data[_place(chance, len(data)) :]


def _blank(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    at, size = _place(chance, len(data)), _size(chance, len(data))
    data[at : at + size] = bytes([chance.choice((0, 0, 255))]) * len(data[at : at + size])


def _join(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    data += bytes(chance.choice((0, 0, 1, 512))) + other


def _cross(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    data[_place(chance, len(data)) :] = other[_place(chance, len(other)) :]


def _shuffle(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    at = _place(chance, len(data))
    piece = list(data[at : at + _size(chance, 64)])
    chance.shuffle(piece)
    data[at : at + len(piece)] = bytes(piece)


# With knowledge of the format.


def _chosen(chance: random.Random, data: bytes) -> Block | None:
    found = blocks(bytes(data))
    return chance.choice(found) if found else None


def _block_size(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    """Change the size that a block declares."""
    block = _chosen(chance, data)
    if block is None or not block.width:
        return _integer(chance, data, other, tokens)
    true = block.stop - block.body
    near = (true - 1, true + 1, true * 2, true // 2, true + 2**16, len(data), len(data) - block.start)
    value = chance.choice((*near, *_WIDE))
    data[block.field : block.field + block.width] = block.encode(value)


def _block_inside(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    """Change the content of a block and correct its checksum, so that readers continue."""
    block = _chosen(chance, data)
    if block is None:
        return _flip(chance, data, other, tokens)
    body = bytearray(data[block.body : block.stop])
    chance.choice((_flip, _byte, _integer, _real, _overwrite, _blank, _shuffle))(chance, body, other, tokens)
    length = block.stop - block.body
    data[block.body : block.stop] = (body + bytes(length))[:length]  # of the same size, so that all other offsets stay
    block.repair(data)


def _block_grow(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    """Make a block longer or shorter, with its size field."""
    block = _chosen(chance, data)
    if block is None or not block.width:
        return _insert(chance, data, other, tokens)
    body = bytearray(data[block.body : block.stop])
    chance.choice((_insert, _remove, _repeat, _truncate))(chance, body, other, tokens)
    data[block.body : block.stop] = body
    data[block.field : block.field + block.width] = block.encode(block.declared(len(body)))
    block.resized(len(body)).repair(data)


def _block_again(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    block = _chosen(chance, data)
    if block is None:
        return _repeat(chance, data, other, tokens)
    target = _chosen(chance, data) or block
    times = chance.choice((1, 1, 2, 8, 100))
    data[target.start : target.start] = data[block.start : block.stop] * times


def _block_away(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    block = _chosen(chance, data)
    if block is None:
        return _remove(chance, data, other, tokens)
    del data[block.start : block.stop]


def _block_swap(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    one, two = _chosen(chance, data), _chosen(chance, data)
    if one is None or two is None or one.stop > two.start:
        return _move(chance, data, other, tokens)
    first, second = data[one.start : one.stop], data[two.start : two.stop]
    data[two.start : two.stop] = first
    data[one.start : one.stop] = second


def _block_foreign(chance: random.Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    """Insert a block of another file, or replace one by it."""
    mine, theirs = _chosen(chance, data), _chosen(chance, other)
    if mine is None or theirs is None:
        return _cross(chance, data, other, tokens)
    stop = mine.stop if chance.random() < 0.5 else mine.start
    data[mine.start : stop] = other[theirs.start : theirs.stop]


_PLAIN: tuple[Operation, ...] = (
    _flip, _flip, _byte, _integer, _integer, _real, _insert, _overwrite, _remove, _repeat, _move, _truncate, _blank,
    _join,
    _cross, _shuffle,
)  # fmt: skip
_STRUCTURED: tuple[Operation, ...] = (
    _block_size, _block_size, _block_inside, _block_inside, _block_inside, _block_grow, _block_again, _block_away,
    _block_swap, _block_foreign,
)  # fmt: skip
