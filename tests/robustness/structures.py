"""The blocks of common file formats: their offsets and their size fields."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

MOST = 4000  # blocks of a file
_DEEP = 8


@dataclass(frozen=True)
class Block:
    """A block of a file.

    Attributes:
        start: Offset of the block.
        body: Offset of its content.
        stop: Offset of its end.
        field: Offset of its size field.
        width: Bytes of its size field; 0 without one.
        order: Byte order of the size; `vint` for EBML's variable integers, `safe` for ID3's seven bits per byte.
        extra: Bytes that the size includes in addition to the content.
        checksum: Format of the block's checksum, `png` or `ogg`; empty without one.
    """

    start: int
    body: int
    stop: int
    field: int = 0
    width: int = 0
    order: str = "big"
    extra: int = 0
    checksum: str = ""

    def declared(self, length: int) -> int:
        """Return the value of the size field for a content of `length` bytes."""
        return length + self.extra

    def encode(self, value: int) -> bytes:
        """Encode a size as the format does, truncated to the width of the field."""
        width = self.width
        if self.order == "vint":
            return ((value % (1 << 7 * width)) | 1 << 7 * width).to_bytes(width, "big")
        if self.order == "safe":
            return bytes(value >> 7 * (width - 1 - i) & 127 for i in range(width))
        return (value % 256**width).to_bytes(width, "little" if self.order == "little" else "big")

    def resized(self, length: int) -> Block:
        return replace(self, stop=self.body + length)

    def repair(self, data: bytearray) -> None:
        """Correct the checksum, if the format has one."""
        if self.checksum == "png":
            data[self.stop : self.stop + 4] = struct.pack(">I", zlib.crc32(data[self.start + 4 : self.stop]))
        elif self.checksum == "ogg" and self.stop - self.start > 27:
            data[self.start + 22 : self.start + 26] = bytes(4)
            data[self.start + 22 : self.start + 26] = struct.pack("<I", _ogg_crc(data[self.start : self.stop]))


def blocks(data: bytes) -> list[Block]:
    """Return the blocks of a file; none for an unknown format or a badly damaged file."""
    walker = next((walk for magic, at, walk in _FORMATS if data[at : at + len(magic)] == magic), None)
    found: list[Block] = []
    if walker is not None:
        for block in walker(data):
            if not block.start < block.stop <= len(data) or block.body > block.stop:
                continue
            found.append(block)
            if len(found) >= MOST:
                break
    return found


def _iff(data: bytes, start: int = 0, stop: int | None = None, order: str = "little", deep: int = 0) -> Iterator[Block]:
    """Yield the chunks of RIFF (WAV, AVI, WebP) and, in big-endian order, AIFF."""
    stop = len(data) if stop is None else min(stop, len(data))
    while start + 8 <= stop:
        size = int.from_bytes(data[start + 4 : start + 8], "little" if order == "little" else "big")
        end = min(start + 8 + size, stop)
        yield Block(start, start + 8, end, start + 4, 4, order)
        if data[start : start + 4] in (b"RIFF", b"LIST", b"FORM", b"RF64") and deep < _DEEP:
            yield from _iff(data, start + 12, end, order, deep + 1)
        start = end + size % 2


_BOXES = frozenset(
    b"moov trak mdia minf stbl edts udta dinf mvex moof traf iprp ipco meta stsd dref ilst mp4a avc1 av01 sinf".split()
)
_SKIPPED = {b"meta": 4, b"stsd": 8, b"dref": 8, b"mp4a": 28, b"avc1": 78, b"av01": 78}


def _boxes(data: bytes, start: int = 0, stop: int | None = None, deep: int = 0) -> Iterator[Block]:
    """Yield the boxes of ISO base media: MP4, MOV, 3GP, AVIF, HEIF, JPEG 2000."""
    stop = len(data) if stop is None else min(stop, len(data))
    while start + 8 <= stop:
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        head = 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        end = stop if size == 0 else min(start + max(size, head), stop)
        yield Block(start, start + head, end, start, 4, extra=head)
        if kind in _BOXES and deep < _DEEP:
            yield from _boxes(data, start + head + _SKIPPED.get(kind, 0), end, deep + 1)
        start = end


# Segment, Info, Tracks, TrackEntry, Video, Audio, Cluster, BlockGroup, Cues, SeekHead, Tags and so on.
_MASTER_IDS = "18538067 1549A966 1654AE6B AE E0 E1 1F43B675 A0 1C53BB6B BB 114D9B74 4DBB 1254C367 7373 67C8 1A45DFA3"
_MASTERS = frozenset(map(bytes.fromhex, _MASTER_IDS.split()))


def _ebml(data: bytes, start: int = 0, stop: int | None = None, deep: int = 0) -> Iterator[Block]:
    """Yield the elements of Matroska and WebM."""
    stop = len(data) if stop is None else min(stop, len(data))
    while start + 2 <= stop:
        name = 9 - data[start].bit_length() if data[start] else 9
        at = start + name
        if name > 4 or at >= stop or not data[at]:
            return
        width = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + width], "big") - (1 << 7 * width)
        body = at + width
        unknown = size == (1 << 7 * width) - 1
        end = stop if unknown else min(body + size, stop)
        yield Block(start, body, end, at, width, "vint")
        if data[start:at] in _MASTERS and deep < _DEEP:
            yield from _ebml(data, body, end, deep + 1)
        start = max(end, body)


def _png(data: bytes) -> Iterator[Block]:
    start = 8
    while start + 12 <= len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        end = min(start + 8 + size, len(data) - 4)
        yield Block(start, start + 8, end, start, 4, checksum="png")
        start = end + 4


def _jpeg(data: bytes) -> Iterator[Block]:
    """Yield the segments of JPEG, and of JPEG 2000 codestreams."""
    start = 2
    while start + 4 <= len(data):
        if data[start] != 0xFF:
            start = data.find(b"\xff", start)
            if start < 0:
                return
            continue
        if data[start + 1] in (0, 0xFF) or 0xD0 <= data[start + 1] <= 0xD9:
            start += 1 if data[start + 1] == 0xFF else 2
            continue
        size = int.from_bytes(data[start + 2 : start + 4], "big")
        end = min(start + 2 + max(size, 2), len(data))
        yield Block(start, start + 4, end, start + 2, 2, extra=2)
        start = end


def _tiff(data: bytes) -> Iterator[Block]:
    """Yield the entries of the directories, with their counts as size fields."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(at: int, width: int) -> int:
        return int.from_bytes(data[at : at + width], order)

    at, seen = number(4, 4), set[int]()
    while 8 <= at < len(data) - 2 and at not in seen:
        seen.add(at)
        for index in range(min(number(at, 2), 100)):
            entry = at + 2 + 12 * index
            yield Block(entry, entry + 8, min(entry + 12, len(data)), entry + 4, 4, order)
        at = number(at + 2 + 12 * number(at, 2), 4)


def _ogg(data: bytes) -> Iterator[Block]:
    start = data.find(b"OggS")
    while start >= 0:
        following = data.find(b"OggS", start + 4)
        stop = len(data) if following < 0 else following
        body = min(start + 27 + (data[start + 26] if start + 26 < len(data) else 0), stop)
        yield Block(start, body, stop, min(start + 26, stop - 1), 1, checksum="ogg")
        start = following


def _flac(data: bytes) -> Iterator[Block]:
    start = 4
    while start + 4 <= len(data):
        last, size = data[start] & 128, int.from_bytes(data[start + 1 : start + 4], "big")
        end = min(start + 4 + size, len(data))
        yield Block(start, start + 4, end, start + 1, 3)
        start = end
        if last:
            break
    yield from _synced(data, b"\xff\xf8", start)


def _id3(data: bytes) -> Iterator[Block]:
    """Yield an ID3 tag and its frames, then the frames of sound."""
    size = int.from_bytes(bytes(0), "big")
    for byte in data[6:10]:
        size = size << 7 | byte & 127
    end = min(10 + size, len(data))
    yield Block(0, 10, end, 6, 4, "safe")
    start = 10
    while start + 10 <= end and data[start]:
        stop = min(start + 10 + int.from_bytes(data[start + 4 : start + 8], "big"), end)
        yield Block(start, start + 10, stop, start + 4, 4)
        start = stop
    yield from _synced(data, b"\xff\xfb", end)


def _synced(data: bytes, mark: bytes, start: int = 0) -> Iterator[Block]:
    """Yield frames that begin with a marker and end at the next one."""
    start = data.find(mark, start)
    while start >= 0:
        following = data.find(mark, start + len(mark))
        stop = len(data) if following < 0 else following
        yield Block(start, min(start + 4, stop), stop)
        start = following


def _marked(mark: bytes) -> Callable[[bytes], Iterator[Block]]:
    return lambda data: _synced(data, mark)


def _transport(data: bytes) -> Iterator[Block]:
    for start in range(0, len(data) - 187, 188):
        yield Block(start, start + 4, start + 188, start + 4, 1)


def _flv(data: bytes) -> Iterator[Block]:
    start = 13
    while start + 11 <= len(data):
        end = min(start + 11 + int.from_bytes(data[start + 1 : start + 4], "big"), len(data))
        yield Block(start, start + 11, end, start + 1, 3)
        start = end + 4


def _caf(data: bytes) -> Iterator[Block]:
    start = 8
    while start + 12 <= len(data):
        size = int.from_bytes(data[start + 4 : start + 12], "big")
        end = min(start + 12 + size, len(data))
        yield Block(start, start + 12, end, start + 4, 8)
        start = end


def _asf(data: bytes) -> Iterator[Block]:
    """Yield the objects of ASF (WMA) and Wave64: a GUID and a size of eight bytes that includes both."""
    start = 0
    while start + 24 <= len(data):
        size = int.from_bytes(data[start + 16 : start + 24], "little")
        end = min(start + max(size, 24), len(data))
        yield Block(start, start + 24, end, start + 16, 8, "little", extra=24)
        inside = start + 30 if start == 0 and data[:4] == b"\x30\x26\xb2\x75" else 0
        if inside:
            while inside + 24 <= end:
                size = max(24, int.from_bytes(data[inside + 16 : inside + 24], "little"))
                yield Block(inside, inside + 24, min(inside + size, end), inside + 16, 8, "little", extra=24)
                inside += size
        start = end


def _wavpack(data: bytes) -> Iterator[Block]:
    start = 0
    while start + 32 <= len(data):
        end = min(start + 8 + int.from_bytes(data[start + 4 : start + 8], "little"), len(data))
        yield Block(start, min(start + 32, end), end, start + 4, 4, "little", extra=24)
        start = max(end, start + 32)


def _gif(data: bytes) -> Iterator[Block]:
    yield Block(0, 6, min(13, len(data)))
    yield from _synced(data, b"\x21", 13)
    yield from _synced(data, b"\x2c", 13)


def _ogg_crc(page: bytes) -> int:
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ _OGG_TABLE[value >> 24 ^ byte]
    return value


def _ogg_table() -> tuple[int, ...]:
    table = []
    for index in range(256):
        value = index << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(value)
    return tuple(table)


_OGG_TABLE = _ogg_table()
_FORMATS: tuple[tuple[bytes, int, Callable[[bytes], Iterator[Block]]], ...] = (
    (b"RIFF", 0, _iff), (b"RF64", 0, _iff), (b"FORM", 0, lambda data: _iff(data, order="big")),
    (b"ftyp", 4, _boxes), (b"jP  ", 4, _boxes), (b"moov", 4, _boxes), (b"\x1aE\xdf\xa3", 0, _ebml),
    (b"\x89PNG", 0, _png), (b"\xff\xd8", 0, _jpeg), (b"\xff\x4f", 0, _jpeg), (b"II*\0", 0, _tiff), (b"MM\0*", 0, _tiff),
    (b"OggS", 0, _ogg), (b"fLaC", 0, _flac), (b"ID3", 0, _id3), (b"FLV", 0, _flv), (b"caff", 0, _caf),
    (b"\x30\x26\xb2\x75", 0, _asf), (b"riff\x2e\x91", 0, _asf), (b"wvpk", 0, _wavpack), (b"GIF8", 0, _gif),
    (b"\x47", 0, _transport), (b"\0\0\1\xba", 0, _marked(b"\0\0\1")), (b"\xff\xfb", 0, _marked(b"\xff\xfb")),
    (b"\xff\xf1", 0, _marked(b"\xff\xf1")), (b"\x0b\x77", 0, _marked(b"\x0b\x77")),
    (b"\x06\x0e\x2b\x34", 0, _marked(b"\x06\x0e\x2b\x34")), (b"#!AMR", 0, _marked(b"\x3c")),
)  # fmt: skip
