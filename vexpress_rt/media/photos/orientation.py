"""The orientation in EXIF and XMP. Other entries are not read, so malformed ones do no harm."""

from __future__ import annotations

import re
import struct

from vexpress_rt.media.photos.encoded_photo import MAX_METADATA

_TAG = 0x0112
_TYPES = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG
_XMP = re.compile(rb'tiff:Orientation(="|>)([0-9])')
_PREFIX = b"Exif\0\0"


def find_orientation(exif: bytes = b"", xmp: bytes = b"") -> int:
    """Return the EXIF orientation of a photo.

    Args:
        exif: EXIF data, with or without its prefix.
        xmp: An XMP packet, which counts if `exif` has no orientation.

    Returns:
        1 to 8; 1, as stored, if there is none.
    """
    found = _read_exif(exif[:MAX_METADATA])
    if found is None and (match := _XMP.search(xmp[:MAX_METADATA])):
        found = int(match[2])
    return found if found in range(1, 9) else 1  # type: ignore[return-value]


def _read_exif(exif: bytes) -> int | None:
    """Return the value of the tag; None without the tag, 0 if it has another type or count."""
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
