"""AVIF and HEIF: the sizes in the container and in the coded pictures; EXIF is removed.

Format: ISO/IEC 14496-12 (boxes), 23008-12 (items); AV1 bitstream specification, 5.5 (sequence header).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from vexpress_rt.media.photos.encoded_photo import (
    DamagedError,
    EncodedPhoto,
    RefusedError,
    missing_end,
    several_pictures,
    truncated,
)

_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2")
_MAX_BOXES = 20_000
_MAX_ITEMS = 2_000
_SEQUENCE_HEADER = 1
_FRAMES = (3, 6)  # a frame header, alone or with the frame
# Bytes that are tried in place of missing ones; AV1 decoders reject some of them.
_FILLS = (0, 0xAA, 0xFF, 0x55)
# Types of alpha, which is decoded with the photo; other auxiliary pictures (depth, gain maps) are not.
_ALPHA = (
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha",
    b"urn:mpeg:hevc:2015:auxid:1",
    b"urn:mpeg:avc:2015:auxid:1",
)
_MAX_FRAMES = 8  # a picture has one, or one per layer; hidden frames of a few bytes cost as much
# Bytes per pixel for planes, converted samples and the picture: (4:2:0 without alpha, all others).
_AVIF_DECODING = (10, 20)
_HEIF_DECODING = (7, 16)


@dataclass
class _Meta:
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (width, height) of every `ispe` property
    kinds: dict[int, bytes] = field(default_factory=dict)  # of items, by item number
    exif: list[int] = field(default_factory=list)  # offsets of the type codes of EXIF items
    primary: int = 0
    extents: list[tuple[int, int, int, int]] = field(default_factory=list)  # item, method, offset, length
    idat: int = 0  # offset of the content of the `idat` box
    plain: bool = True  # all pictures are 4:2:0 or grey, without alpha


def is_bmff(data: bytes) -> bool:
    """Return whether a file is an AVIF or HEIF."""
    return data[4:8] == b"ftyp" and (data[8:12] in _AVIF or data[8:12] in _HEIF)


def read(data: bytes) -> EncodedPhoto:
    """Read an AVIF or HEIF: see `containers.read`."""
    boxes = {name: (start, end) for name, start, end in _boxes(data, 0, len(data))}
    start, end = boxes[b"ftyp"]
    brands = {data[at : at + 4] for at in (start, *range(start + 8, end, 4))}
    avif = bool(brands & set(_AVIF))
    if b"moov" in boxes and (data[8:12] in (b"avis", b"msf1") or b"meta" not in boxes):
        raise several_pictures("an AVIF or HEIF")
    if b"meta" not in boxes:
        raise truncated("before its size")
    meta = _read_meta(data, *boxes[b"meta"])
    gap = None
    if (whole := _end_of_items(meta)) > len(data) > boxes[b"meta"][1]:
        gap = missing_end(len(data), whole - len(data), _FILLS)
    if avif:
        meta.sizes += _coded_sizes(data, meta, 1 if gap else _MAX_FRAMES)
    if not meta.sizes:
        raise DamagedError("it holds no size")
    width, height = max(meta.sizes, key=lambda size: size[0] * size[1])
    return EncodedPhoto(
        kind="AVIF" if avif else "HEIF",
        width=width,
        height=height,
        data=_without_exif(data, meta) if avif else data,
        memory=width * height * (_AVIF_DECODING if avif else _HEIF_DECODING)[not meta.plain],
        orientation=0 if avif else 1,  # AVIF: its decoder reads it; HEIF: its decoder applies it
        gap=gap,
    )


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of the boxes in data[at:end], without their headers."""
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        length, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= end:
            (length,), head = struct.unpack_from(">Q", data, at + 8), 16
        elif length == 0:
            length = end - at
        if length < head:
            return
        yield name, at + head, min(at + length, end)
        at += length
    raise RefusedError(f"has more than {_MAX_BOXES} boxes; expected a few dozen: save it as PNG or JPEG")


def _read_meta(data: bytes, start: int, end: int) -> _Meta:
    meta = _Meta()
    for name, first, last in _boxes(data, start + 4, end):
        if name == b"iinf":
            _read_items(data, first, last, meta)
        elif name == b"iloc":
            _read_extents(data, first, last, meta)
        elif name == b"pitm":
            meta.primary = int.from_bytes(data[first + 4 : last], "big")
        elif name == b"idat":
            meta.idat = first
        elif name == b"iprp":
            for inner, low, high in _boxes(data, first, last):
                if inner == b"ipco":
                    for kind, at, _ in _boxes(data, low, high):
                        _read_property(kind, data[at : at + 64], meta)
    return meta


def _read_property(kind: bytes, body: bytes, meta: _Meta) -> None:
    if kind == b"ispe" and len(body) >= 12:
        meta.sizes.append(struct.unpack_from(">II", body, 4))
    elif kind == b"av1C" and len(body) >= 4:
        # Bits: tier, deep, 12 bits, grey, subsampled in x and y, position of the samples (2).
        meta.plain &= body[2] & 0x60 == 0 and (body[2] & 0x10 != 0 or body[2] & 0x0C == 0x0C)
    elif kind == b"hvcC" and len(body) >= 18:
        meta.plain &= body[16] & 3 <= 1
    elif kind == b"auxC":
        meta.plain &= body[4:].split(b"\0")[0] not in _ALPHA


def _read_items(data: bytes, start: int, end: int, meta: _Meta) -> None:
    skipped = 6 if data[start : start + 1] == b"\0" else 8
    for name, first, _ in _boxes(data, start + skipped, end):
        version = data[first : first + 1]
        if name != b"infe" or version not in (b"\2", b"\3"):
            continue
        wide = 2 if version == b"\2" else 4
        kind = first + 4 + wide + 2
        number = int.from_bytes(data[first + 4 : first + 4 + wide], "big")
        meta.kinds[number] = data[kind : kind + 4]
        if data[kind : kind + 4] == b"Exif":
            meta.exif.append(kind)
    if len(meta.kinds) > _MAX_ITEMS:
        raise RefusedError(f"has {len(meta.kinds)} items; expected at most {_MAX_ITEMS}: save it as PNG or JPEG")


def _read_extents(data: bytes, start: int, end: int, meta: _Meta) -> None:
    version, sizes = data[start], data[start + 4 : start + 6]
    offset_size, length_size, base_size = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4
    index_size = sizes[1] & 15 if version else 0
    at = start + 6

    def number(wide: int) -> int:
        nonlocal at
        if at + wide > end:
            raise truncated("within the extents of its items")
        value = int.from_bytes(data[at : at + wide], "big")
        at += wide
        return value

    for _ in range(min(number(2 if version < 2 else 4), _MAX_ITEMS)):
        item = number(2 if version < 2 else 4)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(base_size)
        for _ in range(min(number(2), _MAX_ITEMS)):
            number(index_size)
            offset = number(offset_size)
            meta.extents.append((item, method, base + offset, number(length_size)))
            if len(meta.extents) > 10 * _MAX_ITEMS:
                raise RefusedError(f"has more than {10 * _MAX_ITEMS} extents; expected a few: save it as PNG or JPEG")


def _end_of_items(meta: _Meta) -> int:
    """Return the offset of the end of the last item in the whole file."""
    return max((offset + length for _, method, offset, length in meta.extents if method == 0), default=0)


def _coded_sizes(data: bytes, meta: _Meta, most: int) -> list[tuple[int, int]]:
    """Return the sizes inside AV1 pictures and grids, by which a decoder allocates memory.

    Raises RefusedError for a picture of more than `most` coded frames.
    """
    sizes: list[tuple[int, int]] = []
    for item, content in _contents(data, meta).items():
        if meta.kinds.get(item) == b"av01":
            units = list(_units(content))
            sizes += [_sequence_size(body) for kind, body in units if kind == _SEQUENCE_HEADER]
            if (frames := sum(kind in _FRAMES for kind, _ in units)) > most:
                raise RefusedError(
                    f"is an AVIF whose picture has {frames} coded frames; expected at most {most}: save it again"
                )
        elif meta.kinds.get(item) == b"grid" and len(content) >= 8:
            wide = len(content) >= 12 and content[1] & 1
            sizes.append(struct.unpack_from(">II" if wide else ">HH", content, 4))
    return sizes


def _contents(data: bytes, meta: _Meta) -> dict[int, bytes]:
    """Return the bytes of the picture items, by item number."""
    contents: dict[int, bytes] = {}
    left = 2 * len(data)
    for item, method, offset, length in meta.extents:
        if meta.kinds.get(item) in (b"av01", b"grid"):
            start = offset + (meta.idat if method == 1 else 0)
            extent = data[start : start + length if length else len(data)]
            left -= len(extent)
            if left < 0:
                raise RefusedError("has pictures that share their bytes; expected one picture: save it as PNG or JPEG")
            contents[item] = contents.get(item, b"") + extent
    return contents


def _units(coded: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, body) of AV1's open bitstream units."""
    at = 0
    for _ in range(10_000):
        if at >= len(coded):
            return
        kind, extended, sized = coded[at] >> 3 & 15, coded[at] & 4, coded[at] & 2
        at += 2 if extended else 1
        size = len(coded) - at
        if sized:
            size, shift = 0, 0
            while at < len(coded) and shift < 56:
                size |= (coded[at] & 127) << shift
                at, shift = at + 1, shift + 7
                if not coded[at - 1] & 128:
                    break
        yield kind, coded[at : at + min(size, 512)]
        at += size
    raise RefusedError("has more than 10000 units in a picture; expected a few: save it as PNG or JPEG")


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise truncated("within a sequence header")
        return self._value >> self._left & (1 << count) - 1


def _sequence_size(body: bytes) -> tuple[int, int]:
    """Return the maximum (width, height) of a frame."""
    bits = _Bits(body)
    bits.take(4)  # profile, still picture
    if not bits.take(1):  # not the short header of still pictures
        decoder_model = delay_bits = 0
        if bits.take(1):  # timing
            bits.take(32)
            bits.take(32)
            if bits.take(1):
                _skip_uvlc(bits)
            decoder_model = bits.take(1)
            if decoder_model:
                delay_bits = bits.take(5) + 1
                bits.take(32)
                bits.take(10)
        initial_delay = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if decoder_model and bits.take(1):
                bits.take(2 * delay_bits + 1)
            if initial_delay and bits.take(1):
                bits.take(4)
    else:
        bits.take(5)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


def _skip_uvlc(bits: _Bits) -> None:
    zeros = 0
    while zeros < 32 and not bits.take(1):
        zeros += 1
    if zeros < 32:
        bits.take(zeros)


def _without_exif(data: bytes, meta: _Meta) -> bytes:
    """Rename EXIF items, so that no decoder reads them. The container itself has the orientation."""
    if not meta.exif:
        return data
    changed = bytearray(data)
    for at in meta.exif:
        changed[at : at + 4] = b"skip"
    return bytes(changed)
