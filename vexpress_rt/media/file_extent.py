"""Declared and actual sizes of sound files, to detect truncated and concatenated recordings.

FFmpeg reads only to the declared end of a file's first recording, and reports nothing if the file ends earlier.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SLACK = 4096  # bytes of padding and tags at the end that are not noted
_TAIL = 1 << 20  # bytes after the declared end that are searched for the start of another recording
_PAGE = 2 * 65307  # bytes: twice the maximum length of a page of Ogg
_MOST_BOXES, _MOST_TAGS = 4096, 100_000  # bound the time of reading
# First bytes of the supported formats.
_BEGINNINGS = re.compile(
    rb"RIFF....WAVE|RF64....WAVE|FORM....AIF[FC]|....ftyp|caff\x00\x01|FLV\x01|riff\x2e\x91\xcf\x11", re.DOTALL
)


@dataclass(frozen=True)
class FileExtent:
    """The declared and the actual size of a file.

    Attributes:
        declared: Size in bytes by the file's header.
        found: Actual size in bytes.
        follows: Offset of another recording after the declared end; None if there is none.
    """

    declared: int
    found: int
    follows: int | None = None

    def notes(self, kind: str) -> list[str]:
        """Return a note if the file is truncated, or if another recording follows.

        Args:
            kind: "audio" or "video".
        """
        if self.found < self.declared - max(SLACK, self.declared // 100):
            return [f"{kind}: the file declares {self.declared} bytes and has {self.found}: it is truncated"]
        if self.follows is not None:
            rest = self.found - self.follows
            return [
                f"{kind}: another recording follows at byte {self.follows} and is skipped, {rest} bytes: join "
                "recordings by decoding them, not by appending their files"
            ]
        return []


def file_extent(path: Path) -> FileExtent | None:
    """Return the declared and the actual size of a WAV, AVI, AIFF, W64, CAF, AU, MP4, FLV or MP3 file.

    Args:
        path: The file.

    Returns:
        The sizes; None for other formats, for headers without a size and for unreadable files, which the decoder
        refuses.
    """
    try:
        with path.open("rb") as file:
            found = file.seek(0, 2)
            declared = _declared(file, found)
            if declared is None:
                return None
            # FFmpeg reads beyond the declared end of MP3, and of AVI, which may consist of several RIFF.
            follows = _next_recording(file, declared, found) if _stops_at_declared_end(file) else None
            return FileExtent(declared, found, follows)
    except (OSError, struct.error):
        return None


def _declared(file: BinaryIO, found: int) -> int | None:
    """Return the size in the header, including the header; None if there is none."""
    file.seek(0)
    head = file.read(48)
    kind = head[:4]
    if kind in (b"RIFF", b"RF64", b"BW64", b"FORM") and len(head) >= 48:
        (size,) = struct.unpack(">I" if kind == b"FORM" else "<I", head[4:8])
        if size == 0xFFFFFFFF and head[12:16] == b"ds64":
            (size,) = struct.unpack("<Q", head[20:28])
        # Programs that write to a pipe cannot go back to fill in the size.
        return None if size in (0, 0xFFFFFFFF) or 0x7FFFF000 <= size <= 0x7FFFFFFF else size + 8
    if kind == b"riff" and len(head) >= 24:
        return _plausible(struct.unpack("<Q", head[16:24])[0])
    if kind == b"caff":
        return _end_of_caf(file, found)
    if kind == b".snd" and len(head) >= 12:
        offset, size = struct.unpack(">II", head[4:12])
        return None if size == 0xFFFFFFFF else offset + size
    if head[4:8] == b"ftyp":
        return _end_of_boxes(file, found)
    if head[:4] == b"FLV\1":
        return _end_of_tags(file)
    return _end_of_mp3(file)


def ends_without_mark(path: Path) -> bool:
    """Return whether the last page of an Ogg file lacks the end-of-stream flag; False for an unreadable file.

    Args:
        path: The file.

    Source: RFC 3533, section 6, flag 0x04.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _PAGE))
            tail = file.read()
    except OSError:
        return False
    last = tail.rfind(b"OggS\0")
    return 0 <= last < len(tail) - 5 and not tail[last + 5] & 4


def leading_tag(path: Path) -> int:
    """Return the size of the ID3v2 tag at the start of a file in bytes.

    Args:
        path: The file.

    Returns:
        The size with its header; 0 without a tag, and for an unreadable file.
    """
    try:
        with path.open("rb") as file:
            return _id3_size(file.read(10))
    except OSError:
        return 0


def _id3_size(head: bytes) -> int:
    """Return the size of the ID3v2 tag (id3.org, "ID3 tag version 2.4.0", section 3.1) with the header `head`."""
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 127:
        return 0
    size = sum(part << shift for part, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if head[5] & 16 else 0)


def _stops_at_declared_end(file: BinaryIO) -> bool:
    """Return whether FFmpeg stops at the declared end."""
    file.seek(0)
    head = file.read(12)
    return head[8:12] != b"AVI " and head[:3] != b"ID3" and head[:1] != b"\xff"


def _end_of_mp3(file: BinaryIO) -> int | None:
    """Return the end by the header in the first frame: "Xing", or "Info" for a constant bit rate."""
    file.seek(0)
    start = _id3_size(file.read(10))
    file.seek(start)
    frame = file.read(64)
    for mark in (b"Xing", b"Info"):
        at = frame.find(mark)
        if frame[:1] == b"\xff" and 0 < at <= 48:
            flags, size = struct.unpack(">I", frame[at + 4 : at + 8])[0], frame[at + 8 : at + 16]
            size = size[4:8] if flags & 1 else size[:4]  # frames come before bytes
            return start + struct.unpack(">I", size)[0] if flags & 2 else None
    return None


def _plausible(size: int) -> int | None:
    return size if 0 < size < 1 << 62 else None


def _end_of_caf(file: BinaryIO, found: int) -> int | None:
    """Return the end of the data chunk and of the complete chunks after it."""
    position, end = 8, None
    for _ in range(_MOST_BOXES):
        file.seek(position)
        header = file.read(12)
        if len(header) < 12 or _BEGINNINGS.match(header):
            break
        kind, size = header[:4], struct.unpack(">q", header[4:])[0]
        if size < 0 or (end is not None and position + 12 + size > found):
            break
        position += 12 + size
        if kind == b"data" or end is not None:
            end = position
    return end


def _end_of_boxes(file: BinaryIO, found: int) -> int | None:
    """Return the end of an MP4's boxes: a second `ftyp`, or the end of the last box."""
    position = 0
    for _ in range(_MOST_BOXES):
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return position
        (size,) = struct.unpack(">I", header[:4])
        if size == 1 and len(header) == 16:
            (size,) = struct.unpack(">Q", header[8:])
        if position and header[4:8] == b"ftyp":
            return position
        if size < 8:  # 0: to the end of the file
            return found if size == 0 else None
        position += size
    return None


def _end_of_tags(file: BinaryIO) -> int | None:
    """Return the end of the sound, video and script tags of an FLV."""
    position = 13
    for _ in range(_MOST_TAGS):
        file.seek(position)
        header = file.read(11)
        if len(header) < 11 or header[0] & 0x1F not in (8, 9, 18):
            return position
        position += 11 + int.from_bytes(header[1:4]) + 4
    return None


def _next_recording(file: BinaryIO, declared: int, found: int) -> int | None:
    if found <= declared:
        return None
    start = max(0, declared - 8)  # some sizes omit a header or a byte of padding
    file.seek(start)
    match = _BEGINNINGS.search(file.read(_TAIL))
    if match is not None:
        return start + match.start()
    return declared if found - declared > SLACK else None
