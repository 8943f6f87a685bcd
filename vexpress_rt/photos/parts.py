"""What a reader of a container hands to the decoder, and how it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vexpress_rt.records import UInt8

MAX_METADATA = 2**20  # bytes of EXIF or XMP that are searched for the orientation
# Decoding a progressive JPEG takes up to 3 ns for each scan of each pixel.
MAX_SCANS = 100
MAX_SCANNED = 1_600_000_000  # pixels x scans
ALL_ROWS = "photo: its last bytes are missing; all of its rows are there"
LESS_DETAIL = "photo: its last bytes are missing; it has less detail than the whole file"


class DamagedError(Exception):
    """The bytes are not a whole picture. The message completes "the photo is damaged ..."."""


class RefusedError(Exception):
    """The picture is whole, but is not taken. The message completes "the photo ..." and names the remedy."""


@dataclass(frozen=True)
class Gap:
    """A place where bytes are missing. Rows that differ with what is filled in there are not known.

    at: where in the data.  fillers: what is inserted; the first that decodes gives the picture, the next is compared
    with it.  detail: whether they are missing from the last, finest scan of the whole picture.
    """

    at: int
    fillers: tuple[bytes, ...]
    detail: bool = False


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
    gap: what takes the place of bytes that are missing.
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
    gap: Gap | None = None

    def __post_init__(self) -> None:
        if self.gap is not None:
            # While the second picture is decoded, the first is there as RGB, and the data with what is filled in.
            self.memory += 3 * self.pixels + len(self.data) + sum(map(len, self.gap.fillers))

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
        return ALL_ROWS
    return f"photo: its last bytes are missing; {height - shown} of its {height} rows stay {fill}"


def missing_end(at: int, missing: int, fills: tuple[int, ...] = (0, 0xAA), more: int = 0) -> Gap:
    """The gap at the end of coded data of which the last `missing` bytes are not there.

    more: bytes that are filled in besides, for decoders that fail where data end.
    Raises DamagedError if that is more than there is.
    """
    if missing > at:
        raise DamagedError("it is truncated: more than half of it is missing")
    return Gap(at, tuple(bytes([fill]) * (missing + more) for fill in fills))


def differing_rows(wrong: int, height: int, gap: Gap) -> str:
    """The note for a picture of which `wrong` rows of `height` differ with what is filled in for missing bytes.

    Raises DamagedError for more than half of a picture that is coded from top to bottom.
    """
    if not wrong:
        return ALL_ROWS
    if gap.detail:
        return LESS_DETAIL
    if wrong * 2 > height:
        raise DamagedError(f"its last bytes are missing, so that about {wrong} of its {height} rows may be wrong")
    return f"photo: its last bytes are missing; about {wrong} of its {height} rows may be wrong"


def check_scans(scans: int, pixels: int) -> None:
    """Refuse a JPEG of so many scans that decoding takes long."""
    most = min(MAX_SCANS, max(1, MAX_SCANNED // max(pixels, 1)))
    if scans > most:
        raise RefusedError(
            f"is a JPEG of {scans} scans; expected at most {most} for its {pixels / 1e6:.1f} million pixels: "
            "save it anew"
        )
