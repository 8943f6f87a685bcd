"""Opening of untrusted sound and video files with PyAV.

FFmpeg also reads playlists and scripts (HLS, DASH, concat, lavfi) that name further files and addresses, and picks a
reader by content, not by name. So only listed readers are enabled, only the file itself may be opened, and the sizes
that a file may declare are bounded.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TypeVar, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from vexpress_rt.errors import CancelledError, InputError, VExpressError
from vexpress_rt.utils.cancellation import check_cancelled
from vexpress_rt.utils.memory_errors import REMEDY, ran_out
from vexpress_rt.utils.paths import input_file

READERS = (
    *("aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dv", "eac3", "flac", "flv", "matroska", "mov"),
    *("mp3", "mpeg", "mpegts", "mxf", "ogg", "voc", "w64", "wav", "wv"),
)
MAX_PIXELS = 8192 * 4320
MAX_SECONDS = 4 * 3600
MIN_RATE, MAX_RATE = 1000, 768_000  # Hz; beyond these limits resampling takes far too much memory
MAX_CHANNELS = 64
MAX_VALUES = 8 * 48_000 * MAX_SECONDS  # samples of all channels: a file of 5 MB can hold hours of them at 655 kHz
MAX_STREAMS = 128  # PyAV reads beyond its list of streams when one appears later
LOUDEST = 1e4  # times full scale: larger samples have another scale, and 3e38 overflows in a sum or a filter
# FFmpeg allocates declared sizes before it reads the data, for example a tag of 2 GB. A frame of MAX_PIXELS takes at
# most 270 MiB: 16 bits in four channels.
MAX_ALLOCATION = 320 * 2**20

_MOST_FAILURES = 20  # consecutive failed reads, after which a damaged file counts as ended
_UNREADABLE = (errno.EIO, errno.ENXIO, errno.ESTALE)  # faults of the disk or the network

S = TypeVar("S", bound=Stream)
E = TypeVar("E", bound=InputError)

_log = logging.getLogger("vexpress_rt")


@contextmanager
def open_media(path: Path, kind: str, error: type[InputError]) -> Iterator[InputContainer]:
    """Open a sound or video file for reading.

    Args:
        path: The file.
        kind: Its name in messages: "the audio".
        error: The exception to raise.

    Yields:
        The open container.

    Raises:
        error: `path` is not a regular file, none of `READERS` reads it, or memory runs out.
    """
    path = input_file(path, kind, "a sound or video file", error)
    _limit_allocations()
    try:
        # The prefix keeps a name like "concat:a|b" or "http:x" from being taken as an address.
        container = av.open(
            f"file:{path}",
            "r",
            options={"max_pixels": str(MAX_PIXELS)},
            container_options={
                "protocol_whitelist": "file",
                "format_whitelist": ",".join(READERS),
                "max_streams": str(MAX_STREAMS),
            },
            metadata_errors="replace",
        )
    except Exception as cause:  # FFmpeg's errors, and PyAV's own on unexpected data
        if ran_out(cause):
            raise no_memory(kind, path, error) from cause
        raise error(
            f"{kind} {path} cannot be read ({reason(cause)}); expected a sound or video file such as WAV, MP3, MP4 "
            "or MKV: check that it plays, or convert it"
        ) from cause
    with container:
        try:
            yield container
        except VExpressError:
            raise
        except MemoryError as cause:
            raise no_memory(kind, path, error) from cause


def no_memory(kind: str, path: Path, error: type[E]) -> E:
    """Return the error for a file whose decoding runs out of memory.

    Args:
        kind: Its name in messages: "the audio".
        path: The file.
        error: The class of the error.
    """
    return error(
        f"{kind} {path} needs more memory than there is, or more than {MAX_ALLOCATION // 2**20} MiB in one piece: "
        f"{REMEDY}, or convert the file"
    )


@functools.cache
def _limit_allocations() -> None:
    """Limit each allocation of FFmpeg to `MAX_ALLOCATION` bytes in the whole process.

    PyAV does not wrap `av_max_alloc`; the function is reached through PyAV's shared library.
    """
    try:
        limit = ctypes.CDLL(av._core.__file__).av_max_alloc
    except (AttributeError, OSError) as error:  # Windows does not export the symbols of linked libraries
        _log.debug("FFmpeg's allocations cannot be limited: %s", error)
        return
    limit.argtypes, limit.restype = [ctypes.c_size_t], None
    limit(MAX_ALLOCATION)


def reason(error: BaseException) -> str:
    """Return the message of an error of FFmpeg or the system, without path and error number.

    Args:
        error: An exception that PyAV or the system raised.
    """
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def to_seconds(ticks: int | None, base: Fraction | None) -> Fraction | None:
    """Convert a time stamp of FFmpeg to seconds.

    Args:
        ticks: The time stamp in units of `base`; None if there is none.
        base: Seconds per unit; None or 0 for unknown.

    Returns:
        Seconds, exact; None if the time is unknown.
    """
    return None if ticks is None or not base else ticks * base


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, for messages: "1 place", "2 places".

    Args:
        count: The number of things.
        noun: The thing, in the singular.
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def moving_pictures(container: InputContainer) -> list[VideoStream]:
    """Return the video streams of a file, without album covers."""
    covers = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & covers]


def packets(
    container: InputContainer, stream: S, path: Path, kind: str, error: type[InputError],
    unreadable: Callable[[BaseException], object],
) -> Iterator[Packet[S]]:  # fmt: skip
    """Read the packets of a stream past damage.

    After an error, reading continues up to a limit. Other empty packets (an AVI has one for each dropped frame) are
    skipped, because a decoder takes an empty packet for the end. PyAV raises IndexError at the end of a file in which a
    stream appeared after opening.

    Args:
        container: The open file.
        stream: The stream to read.
        path: The file, for messages.
        kind: Its name in messages.
        error: The exception to raise.
        unreadable: Called with the exception of each failed read.

    Yields:
        The packets. The last one is empty and flushes the decoder.

    Raises:
        error: The disk or the network fails.
        CancelledError: The work was cancelled (`cancellation.cancellable`).
    """
    failures = 0
    while failures <= _MOST_FAILURES:
        try:
            for packet in container.demux(stream):
                check_cancelled()
                if packet.size == 0 and (packet.dts is not None or packet.pts is not None):
                    continue
                yield cast("Packet[S]", packet)
                if packet.size == 0:
                    return
                failures = 0
            return
        except (MemoryError, CancelledError):
            raise
        except IndexError:
            failures += 1
        except Exception as cause:  # FFmpeg's errors, and PyAV's own on unexpected data
            if getattr(cause, "errno", None) in _UNREADABLE:
                raise error(f"{kind} {path} cannot be read to its end ({reason(cause)}): transfer it again") from cause
            failures += 1
            unreadable(cause)
