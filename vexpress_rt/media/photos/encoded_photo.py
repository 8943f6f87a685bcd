"""The result of a container's reader, its errors, and checks that several readers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vexpress_rt.types import UInt8

MAX_METADATA = 2**20  # bytes of EXIF or XMP that are searched for the orientation
# A progressive JPEG decodes in up to 3 ns per scan and pixel.
MAX_SCANS = 100
MAX_SCANNED = 1_600_000_000  # pixels x scans
ALL_ROWS = "photo: its last bytes are missing; all of its rows can be decoded"
LESS_DETAIL = "photo: its last bytes are missing; it has less detail than the whole file"


class DamagedError(Exception):
    """The bytes are not a complete picture. The message completes "the photo is damaged ..."."""


class RefusedError(Exception):
    """The picture is not supported. The message completes "the photo ..." and names the remedy."""


def truncated(where: str) -> DamagedError:
    """Return the error for a truncated file.

    Args:
        where: The place of the end, such as "before its pixels".
    """
    return DamagedError(f"it is truncated: it ends {where}")


def several_pictures(kind: str) -> RefusedError:
    """Return the error for an animation or several pages.

    Args:
        kind: The format with its article, such as "a GIF".
    """
    return RefusedError(f"is {kind} of several frames or pages; expected one picture: save one of them")


@dataclass(frozen=True)
class Gap:
    """Missing bytes of a file. Fillers are decoded in their place; rows that change with the filler are unknown.

    Attributes:
        at: Offset in the data.
        fillers: Bytes to insert. The first that decodes gives the picture; the next is compared with it.
        detail: Whether the bytes are missing from the last scan, which refines the whole picture.
    """

    at: int
    fillers: tuple[bytes, ...]
    detail: bool = False


@dataclass(kw_only=True)
class EncodedPhoto:
    """A photo, ready for its decoder.

    Attributes:
        kind: Pillow's name of the format, or HEIF.
        width: Pixels as stored, before the orientation is applied.
        height: Pixels as stored.
        data: The bytes for the decoder.
        memory: An upper bound of the bytes that decoding takes, without `data` and the decoded picture.
        bands: Bytes per pixel of the decoded picture.
        orientation: EXIF orientation, 1 to 8; 0 if the decoder reads it.
        notes: Repairs, for `Video.notes`.
        fill: Decodes `data` in place of Pillow into (height, width, 3) uint8 RGB, and returns notes.
        repair: Takes this photo after its decoding failed and returns one to try next; raises DamagedError.
        cut: Whether the end of a JPEG is missing; rows at the bottom may be grey then.
        gap: Missing bytes of `data` and their fillers.
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
    repair: Callable[[EncodedPhoto], EncodedPhoto] | None = None
    cut: bool = False
    gap: Gap | None = None

    def __post_init__(self) -> None:
        if self.gap is not None:
            # The second picture is decoded beside the first one as RGB and the data with fillers.
            self.memory += 3 * self.pixels + len(self.data) + sum(map(len, self.gap.fillers))

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    def take(self) -> bytes:
        """Return `data` and drop the reference to it, so that the caller can free its memory."""
        data, self.data = self.data, b""
        return data


def missing_rows(shown: int, height: int, fill: str) -> str:
    """Return the note for a picture whose end is missing.

    Args:
        shown: Rows that can be decoded.
        height: Rows of the whole picture.
        fill: The colour of the missing rows.

    Raises:
        DamagedError: Less than half of the rows can be decoded.
    """
    if shown * 2 < height:
        raise DamagedError(f"only {shown} of its {height} rows can be decoded")
    if shown == height:
        return ALL_ROWS
    return f"photo: its last bytes are missing; {height - shown} of its {height} rows are {fill}"


def missing_end(at: int, missing: int, fills: tuple[int, ...] = (0, 0xAA), more: int = 0) -> Gap:
    """Return the gap at the end of coded data.

    Args:
        at: Offset of the gap.
        missing: Number of missing bytes.
        fills: The byte that each filler repeats.
        more: Extra bytes of each filler, for decoders that fail at the end of the data.

    Raises:
        DamagedError: More than half of the data is missing.
    """
    if missing > at:
        raise DamagedError("it is truncated: more than half of it is missing")
    return Gap(at, tuple(bytes([fill]) * (missing + more) for fill in fills))


def differing_rows(wrong: int, height: int, gap: Gap) -> str:
    """Return the note for a picture with a gap.

    Args:
        wrong: Rows that change with the filler.
        height: Rows of the whole picture.
        gap: The gap.

    Raises:
        DamagedError: More than half of the rows change, and not only in detail.
    """
    if not wrong:
        return ALL_ROWS
    if gap.detail:
        return LESS_DETAIL
    if wrong * 2 > height:
        raise DamagedError(f"its last bytes are missing, so that about {wrong} of its {height} rows may be wrong")
    return f"photo: its last bytes are missing; about {wrong} of its {height} rows may be wrong"


def check_scans(scans: int, pixels: int) -> None:
    """Check that the scans of a JPEG do not make its decoding slow.

    Args:
        scans: Number of scans.
        pixels: Number of pixels.

    Raises:
        RefusedError: There are more scans than `MAX_SCANS`, or too many for so many pixels.
    """
    most = min(MAX_SCANS, max(1, MAX_SCANNED // max(pixels, 1)))
    if scans > most:
        raise RefusedError(
            f"is a JPEG of {scans} scans; expected at most {most} for its {pixels / 1e6:.1f} million pixels: "
            "save it again"
        )
