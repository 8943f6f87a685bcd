"""What a reader of a container hands to the decoder, and how it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vexpress_rt.records import UInt8

MAX_METADATA = 2**20  # bytes of EXIF or XMP that are searched for the orientation
# Decoding a progressive JPEG takes up to 3 ns for each scan of each pixel.
MAX_SCANS = 100
MAX_SCANNED = 1_600_000_000  # pixels x scans


class DamagedError(Exception):
    """The bytes are not a whole picture. The message completes "the photo is damaged ..."."""


class RefusedError(Exception):
    """The picture is whole, but is not taken. The message completes "the photo ..." and names the remedy."""


@dataclass(kw_only=True)
class Parts:
    """A photo, ready for its decoder.

    kind: Pillow's name of the format, or HEIF.  width, height: pixels as stored, before the orientation is applied.
    data: the bytes for the decoder.  bands: bytes a pixel of the picture that it gives.
    memory: bytes that decoding takes at most besides these two.
    orientation: as EXIF counts it, 1 to 8; 0 where the decoder reads it.
    notes: what was repaired.
    fill: writes the pixels of `data` into (height, width, 3) uint8 RGB in place of Pillow, and returns notes.
    repair: gives the parts to try where these do not decode, whose `data` it takes; raises DamagedError.
    cut: whether the end of a JPEG is missing, so that rows at the bottom may be grey.
    """

    kind: str
    width: int
    height: int
    data: bytes
    memory: int
    bands: int = 4
    orientation: int = 1
    notes: tuple[str, ...] = ()
    fill: Callable[[bytes, UInt8], tuple[str, ...]] | None = None
    repair: Callable[[Parts], Parts] | None = None
    cut: bool = False

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def take(self) -> bytes:
        """Hand `data` over, so that its memory is free as soon as it is decoded."""
        data, self.data = self.data, b""
        return data


def missing_rows(shown: int, height: int, fill: str) -> str:
    """The note for a picture of which `shown` rows of `height` are there. Raises DamagedError for less than half."""
    if shown * 2 < height:
        raise DamagedError(f"only {shown} of its {height} rows can be decoded")
    if shown == height:
        return "photo: its last bytes are missing; all of its rows are there"
    return f"photo: its last bytes are missing; {height - shown} of its {height} rows stay {fill}"


def check_scans(scans: int, pixels: int) -> None:
    """Refuse a JPEG of so many scans that decoding takes long."""
    most = min(MAX_SCANS, max(1, MAX_SCANNED // max(pixels, 1)))
    if scans > most:
        raise RefusedError(
            f"is a JPEG of {scans} scans; expected at most {most} for its {pixels / 1e6:.1f} million pixels: "
            "save it anew"
        )
