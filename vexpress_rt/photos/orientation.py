"""The orientation in EXIF and XMP, and nothing else of them: an odd entry elsewhere makes no photo unusable."""

from __future__ import annotations

import re
import struct

from vexpress_rt.photos.parts import MAX_METADATA

_TAG = 0x0112
_TYPES = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG
_XMP = re.compile(rb'tiff:Orientation(="|>)([0-9])')
_PREFIX = b"Exif\0\0"


def find_orientation(exif: bytes = b"", xmp: bytes = b"") -> int:
    """1 to 8, as EXIF counts it: of `exif`, else of `xmp`, else 1, which is as stored."""
    found = _of_exif(exif[:MAX_METADATA])
    if found is None and (match := _XMP.search(xmp[:MAX_METADATA])):
        found = int(match[2])
    return found if found in range(1, 9) else 1  # type: ignore[return-value]


def _of_exif(exif: bytes) -> int | None:
    """The value of the tag; None without one, 0 for one of another type or count."""
    while exif.startswith(_PREFIX):
        exif = exif[len(_PREFIX) :]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    if at + 2 > len(exif):
        return None
    found = None
    (count,) = struct.unpack_from(f"{order}H", exif, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", exif, entry)
        if tag == _TAG:
            known = values == 1 and kind in _TYPES
            found = struct.unpack_from(order + _TYPES[kind], exif, entry + 8)[0] if known else 0
    return found
