"""Sound and video files as PyAV reads them, opened so that an untrusted file can do no harm.

FFmpeg also reads playlists and scripts (HLS, DASH, concat, lavfi) that name further files and addresses, and picks a
reader by content, not by name. So the readers are listed, nothing but the file itself may be opened, and
the sizes that a file may declare are bounded.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from vexpress_rt.errors import InputError, VExpressError
from vexpress_rt.memory import REMEDY, ran_out
from vexpress_rt.paths import input_file

READERS = (
    *("aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dv", "eac3", "flac", "flv", "matroska", "mov"),
    *("mp3", "mpeg", "mpegts", "mxf", "ogg", "voc", "w64", "wav", "wv"),
)
MAX_PIXELS = 8192 * 4320
MAX_SECONDS = 4 * 3600
MIN_RATE, MAX_RATE = 1000, 768_000  # Hz; beyond them resampling takes memory out of all proportion
MAX_CHANNELS = 64
MAX_VALUES = 8 * 48_000 * MAX_SECONDS  # samples of all channels: a file of 5 MB can hold hours of them at 655 kHz
MAX_STREAMS = 128  # PyAV looks that far beyond a list of those that were there at first
LOUDEST = 1e4  # full scales: what is far from 1 is of another scale, and 3e38 is infinite after a sum or a filter
# FFmpeg reserves what a file declares before it reads that, a tag of 2 GB among it. A frame of MAX_PIXELS takes 270 MiB
# at most, of 16 bits in four channels.
MAX_ALLOCATION = 320 * 2**20

_MOST_FAILURES = 20  # in a row, after which a damaged file has ended
_UNREADABLE = (errno.EIO, errno.ENXIO, errno.ESTALE)  # the disk's fault, or the network's

S = TypeVar("S", bound=Stream)

_log = logging.getLogger("vexpress_rt")


@contextmanager
def open_media(path: Path, kind: str, error: type[InputError]) -> Iterator[InputContainer]:
    """Open a sound or video file for reading; `kind` ("the audio") and `error` are for complaints.

    Raises `error` for a path that is no regular file, for a file that none of `READERS` can read, and where memory runs
    out. Whatever PyAV raises within the block, and is not caught there, becomes `error`, too.
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
    except Exception as cause:  # PyAV raises FFmpeg's errors, and errors of its own on what it does not expect
        if ran_out(cause):
            raise _no_memory(kind, path, error) from cause
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
            raise _no_memory(kind, path, error) from cause


def _no_memory(kind: str, path: Path, error: type[InputError]) -> InputError:
    return error(
        f"{kind} {path} needs more memory than there is, or more than {MAX_ALLOCATION // 2**20} MiB in one piece: "
        f"{REMEDY}, or convert the file"
    )


@functools.cache
def _limit_allocations() -> None:
    """Keep FFmpeg from reserving more than `MAX_ALLOCATION` bytes at once, in all of the process.

    PyAV has no name for `av_max_alloc`, which its own modules are linked with.
    """
    try:
        limit = ctypes.CDLL(av._core.__file__).av_max_alloc
    except (AttributeError, OSError) as error:  # on Windows a module does not pass on what it is linked with
        _log.debug("FFmpeg's allocations cannot be limited: %s", error)
        return
    limit.argtypes, limit.restype = [ctypes.c_size_t], None
    limit(MAX_ALLOCATION)


def reason(error: BaseException) -> str:
    """What FFmpeg or the system said, without the path and numbers around it."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def moving_pictures(container: InputContainer) -> list[VideoStream]:
    """The streams of a file whose pictures move; an album cover does not."""
    covers = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & covers]


def packets(
    container: InputContainer, stream: S, path: Path, kind: str, error: type[InputError],
    unreadable: Callable[[BaseException], object],
) -> Iterator[Packet[S]]:  # fmt: skip
    """The packets of a stream, the last of which is empty and makes the decoder give what it still holds.

    The reader is asked on after an error, up to a limit, and `unreadable` is told of each. Other empty packets (a frame
    that an AVI drops) are left out, since a decoder would take them for the end. PyAV knows the streams that were there
    when the file was opened, and raises IndexError at the end of a file where one came later.
    Raises `error` if the disk or the network fails.
    """
    failures = 0
    while failures <= _MOST_FAILURES:
        try:
            for packet in container.demux(stream):
                if packet.size == 0 and (packet.dts is not None or packet.pts is not None):
                    continue
                yield cast("Packet[S]", packet)
                if packet.size == 0:
                    return
                failures = 0
            return
        except MemoryError:
            raise
        except IndexError:
            failures += 1
        except Exception as cause:  # FFmpeg's, and what PyAV raises on what it does not expect
            if getattr(cause, "errno", None) in _UNREADABLE:
                raise error(f"{kind} {path} cannot be read to its end ({reason(cause)}): transfer it anew") from cause
            failures += 1
            unreadable(cause)
