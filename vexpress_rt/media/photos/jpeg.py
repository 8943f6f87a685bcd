"""JPEG: the segments that affect pixels, the number of scans, and the end marker where it is missing.

Format: ITU-T T.81, annex B.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from vexpress_rt.media.photos.encoded_photo import (
    LESS_DETAIL,
    MAX_METADATA,
    DamagedError,
    EncodedPhoto,
    Gap,
    RefusedError,
    check_scans,
    truncated,
)
from vexpress_rt.media.photos.orientation import find_orientation

MAGIC = b"\xff\xd8\xff"

_SOI, _EOI, _SOS = b"\xff\xd8", 0xD9, 0xDA
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
# Tables, frame, scan, restart interval; APP0 and APP14 declare the colour space.
_WANTED = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xE0, 0xEE}
_ANY = re.compile(rb"\xff([^\x00\xff])")
# Markers that end the coded data of a scan; other values are damage inside it, which the decoder skips.
_AFTER_SCAN = re.compile(rb"\xff([\xc4\xcc\xd9-\xdd\xe0-\xef\xfe])")
_MAX_SEGMENTS = 20_000


@dataclass
class _Head:
    """The segments before the first scan."""

    kept: list[bytes] = field(default_factory=lambda: [_SOI])
    exif: bytearray = field(default_factory=bytearray)
    xmp: bytes = b""
    frame: bytes = b""
    progressive: bool = False


@dataclass
class _Scans:
    """The scans of a picture.

    Attributes:
        count: Number of scans.
        end: Offset of the end of the last scan.
        whole: Whether an end marker follows the last scan.
        components: Identifiers of the components in all scans.
        detail: Number, from 1, of the first scan with AC frequencies of the first component.
        first: Identifier of the first component.
        exact: Frequencies of each component that a scan codes to the last bit.
    """

    count: int = 0
    end: int = 0
    whole: bool = False
    components: set[int] = field(default_factory=set)
    detail: int = _MAX_SEGMENTS
    first: int = -1
    exact: dict[int, set[int]] = field(default_factory=dict)

    def add(self, header: bytes) -> None:
        """Add a scan by its header: component count, (identifier, tables) of each, spectral range, approximation."""
        self.count += 1
        named = set(header[1 : 1 + 2 * header[0] : 2]) if header else set()
        self.components |= named
        if self.count == 1 and header:
            self.first = header[1] if len(header) > 1 else -1
        if len(header) >= 3 and not header[-1] & 15:
            for component in named:
                self.exact.setdefault(component, set()).update(range(header[-3], min(header[-2], 63) + 1))
        if self.first in named and len(header) >= 3 and header[-2] >= 1:
            self.detail = min(self.detail, self.count)


def read(data: bytes) -> EncodedPhoto:
    """Read the first picture in `data`; in a multi-picture JPEG that is the photo itself."""
    head, start = _read_head(data)
    scans = _follow_scans(data, start)
    height, width = int.from_bytes(head.frame[1:3], "big"), int.from_bytes(head.frame[3:5], "big")
    check_scans(scans.count, width * height)
    several = head.progressive or scans.count > 1
    notes: tuple[str, ...] = ()
    gap = None
    kept = b"".join([*head.kept, memoryview(data)[start : scans.end]])
    if not scans.whole and several:
        _check_cut(scans, head)
        if _all_scans_begin(scans, head):
            # Bytes after a complete scan change nothing. The picture is decoded twice within the limit for one.
            check_scans(2 * scans.count, width * height)
            kept = kept.rstrip(b"\xff")
            gap = Gap(len(kept), (b"", b"\xaa" * 64), detail=True)
        else:
            notes = (LESS_DETAIL,)
    samples = _samples(head.frame)
    bands = 1 if head.frame[5] == 1 else 4
    # The decoder keeps every coefficient, 2 bytes a sample, until the last scan.
    coefficients = 2 * samples if several else 0
    return EncodedPhoto(
        kind="JPEG",
        width=width,
        height=height,
        data=kept + bytes([0xFF, _EOI]),
        memory=int(width * height * coefficients),
        bands=bands,
        orientation=find_orientation(bytes(head.exif), head.xmp),
        notes=notes,
        cut=not (scans.whole or several),
        gap=gap,
    )


def count_scans(data: bytes) -> int:
    """Return an upper bound of the number of scans in `data`."""
    return data.count(bytes([0xFF, _SOS]))


def _read_head(data: bytes) -> tuple[_Head, int]:
    """Return the segments before the first scan, and the offset of that scan."""
    head, at = _Head(), 2
    for _ in range(_MAX_SEGMENTS):
        found = _ANY.search(data, at)
        if found is None:
            break
        marker, start, at = found[1][0], found.start(), found.end()
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # no length follows
            continue
        if marker == _SOS:
            _check_frame(head.frame)
            return head, start
        length = int.from_bytes(data[at : at + 2], "big")
        if marker == _EOI or length < 2 or at + length > len(data):
            break
        body = data[at + 2 : at + length]
        at += length
        _keep(head, marker, body, data[start:at])
    else:
        raise RefusedError(f"is a JPEG of more than {_MAX_SEGMENTS} segments; expected a few dozen: save it again")
    raise truncated("before its pixels")


def _keep(head: _Head, marker: int, body: bytes, segment: bytes) -> None:
    if marker in _FRAMES:
        if head.frame:
            raise DamagedError("it has two frame headers")
        head.frame, head.progressive = body, marker in _PROGRESSIVE
    if marker in _WANTED:
        head.kept.append(segment)
    elif marker == 0xE1 and body.startswith(_EXIF) and len(head.exif) < MAX_METADATA:
        head.exif += body[len(_EXIF) :]
    elif marker == 0xE1 and body.startswith(_XMP):
        head.xmp = body[len(_XMP) :]


def _check_frame(frame: bytes) -> None:
    if len(frame) < 9 or len(frame) < 6 + 3 * frame[5]:
        raise DamagedError("its frame header is missing or too short")


def _follow_scans(data: bytes, start: int) -> _Scans:
    scans, at = _Scans(), start
    for _ in range(_MAX_SEGMENTS):
        found = _AFTER_SCAN.search(data, at)
        scans.end = found.start() if found else len(data)
        if found is None:
            return scans
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            scans.whole = True
            return scans
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            return scans
        if marker == _SOS:
            scans.add(data[at + 2 : at + length])
        at += length
    raise RefusedError(f"is a JPEG of more than {_MAX_SEGMENTS} segments; expected a few dozen: save it again")


def _check_cut(scans: _Scans, head: _Head) -> None:
    """Raise DamagedError if a picture whose last scans are missing is too coarse.

    A progressive picture needs a complete scan with AC frequencies of the first component; another one needs a scan of
    each component.
    """
    enough = scans.detail < scans.count if head.progressive else len(scans.components) == head.frame[5]
    if not enough:
        raise DamagedError("only the coarsest of it can be decoded")


def _all_scans_begin(scans: _Scans, head: _Head) -> bool:
    """Return whether all components have a scan; in a progressive picture, one of the last bit of every frequency."""
    components = set(head.frame[6 : 6 + 3 * head.frame[5] : 3])
    exact = {each for each, known in scans.exact.items() if len(known) == 64}
    return components <= (exact if head.progressive else scans.components)


def _samples(frame: bytes) -> float:
    """Return the samples per pixel of all components together."""
    factors = [(each >> 4, each & 15) for each in frame[7 : 6 + 3 * frame[5] : 3]]
    most = max((wide for wide, _ in factors), default=0) * max((tall for _, tall in factors), default=0)
    if not most:
        raise DamagedError("its sampling factors are zero")
    return sum(wide * tall for wide, tall in factors) / most
