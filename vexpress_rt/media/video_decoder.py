"""Decoding of video files past damage, to upright pictures with square pixels and of one size.

On damaged files PyAV raises exceptions of many types (IndexError, ValueError and AssertionError among them), so every
exception of its calls is caught here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vexpress_rt.errors import VideoError
from vexpress_rt.media.ffmpeg import MAX_PIXELS, moving_pictures, no_memory, open_media, packets, reason
from vexpress_rt.types import UInt8
from vexpress_rt.utils.cpus import usable_cores

# Bytes for frames in decoding. Each thread of a decoder holds one, of up to 3 bytes per pixel (4:2:0, 10 bit).
_FRAME_MEMORY = 128 * 2**20
LARGEST_PICTURE = 4096 * 2304  # pixels; larger frames are scaled down at once, since several are in memory
_MOST_THREADS = 8
_FAILURES_IN_A_ROW = 200  # consecutive packets without a frame, after which the file is refused if damaged
_WIDEST_PIXEL = 4  # largest credible pixel aspect ratio, or its inverse
_SAME = 2  # pixels; a scaled picture within this of the first size is stretched to it


@dataclass
class ReadReport:
    """Faults of a video that were skipped or repaired while it was read.

    Attributes:
        decoded: Number of decoded frames.
        flawed: Number of these that decoded with errors.
        lost: Number of packets without a frame.
        why: Error message of the first damaged frame.
        others: Other notes, in order.
    """

    decoded: int = 0
    flawed: int = 0
    lost: int = 0
    why: str = ""
    others: dict[str, None] = field(default_factory=dict)

    def add_note(self, note: str) -> None:
        """Add a note, unless there is an equal one.

        Args:
            note: One sentence for people.
        """
        self.others.setdefault(note)

    def check(self, path: Path) -> None:
        """Check that no more than half of the frames are damaged.

        Args:
            path: The file, for the message.

        Raises:
            VideoError: More than half are damaged.
        """
        damaged, whole = self.flawed + self.lost, self.decoded - self.flawed
        if damaged > max(whole, 1):
            raise VideoError(
                f"the video {path} is damaged: {damaged} of its {damaged + whole} frames ({self.why}); expected most "
                "to be whole: transfer it again, or convert it to MP4"
            )

    def notes(self, what: str = "driving video") -> tuple[str, ...]:
        """Return one sentence per fault; what: what the video is, the beginning of each."""
        notes = [f"{what}: {note}" for note in self.others]
        if damaged := self.flawed + self.lost:
            frames = "1 frame is" if damaged == 1 else f"{damaged} frames are"
            notes.insert(0, f"{what}: {frames} damaged ({self.why}); what can be decoded is used")
        return tuple(notes)


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video and choose its first video stream that is not an album cover.

    Args:
        path: The file.

    Yields:
        The open container and the stream.

    Raises:
        VideoError: The file cannot be read, has no such stream, or has more than `ffmpeg.MAX_PIXELS` pixels per frame.
    """
    with open_media(path, "the video", VideoError) as container:
        try:
            stream = _choose(container, path)
        except VideoError:
            raise
        except Exception as error:
            raise unreadable(path, error) from error
        yield container, stream


def _choose(container: InputContainer, path: Path) -> VideoStream:
    streams = [stream for stream in moving_pictures(container) if stream.codec_context is not None]
    if not streams:
        found = ", ".join(s.type for s in container.streams) or "nothing"
        raise VideoError(f"{path} holds {found} but no moving picture that can be read; expected a video of a face")
    stream = streams[0]
    pixels = stream.width * stream.height
    if pixels > MAX_PIXELS:
        raise VideoError(
            f"the video {path} has {stream.width} x {stream.height} pixels; expected at most {MAX_PIXELS} in all: "
            "scale it down"
        )
    pixels = pixels or MAX_PIXELS  # unknown before the first frame
    threads = max(1, min(_MOST_THREADS, usable_cores(), _FRAME_MEMORY // (3 * pixels)))
    # Frames may grow after the number of threads is chosen, but only to a limit.
    most = min(MAX_PIXELS, max(4 * pixels, LARGEST_PICTURE))
    stream.codec_context.options = {"max_pixels": str(most)}
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = threads
    return stream


def unreadable(path: Path, error: Exception) -> VideoError:
    """Return the error for a video that can be opened but not read.

    Args:
        path: The file.
        error: The cause.
    """
    if isinstance(error, MemoryError):
        return no_memory("the video", path, VideoError)
    return VideoError(f"the video {path} cannot be read ({reason(error)}): check that it plays, or convert it to MP4")


def decode(path: Path, report: ReadReport, packets: Iterator[Packet[VideoStream]]) -> Iterator[VideoFrame]:
    """Decode packets past damage.

    Args:
        path: The file, for messages.
        report: Counts damaged frames and packets.
        packets: The packets of `demux`.

    Yields:
        Frames in presentation order.

    Raises:
        VideoError: Hundreds of consecutive packets give no frame, or memory runs out.
    """
    failures = 0
    for packet in packets:
        try:
            frames = packet.decode()
        except MemoryError as error:
            raise unreadable(path, error) from error
        except Exception as error:  # of any type: see the module's docstring
            failures += 1
            report.lost += 1
            report.why = report.why or reason(error)
            if failures > _FAILURES_IN_A_ROW:
                report.check(path)
            continue
        while frames:
            frame = frames.pop(0)  # no frame is kept in memory longer than needed
            if not isinstance(frame, VideoFrame):
                continue
            failures = 0
            report.decoded += 1
            why = "decoded with errors" if frame.is_corrupt or packet.is_corrupt else ""
            smaller: VideoFrame | None = None
            try:
                smaller = _smaller(frame)
            except MemoryError as error:
                raise unreadable(path, error) from error
            except Exception as error:
                why = reason(error)
            if why:
                report.flawed += 1
                report.why = report.why or why
            del frame
            if smaller is not None:
                yield smaller


def _smaller(frame: VideoFrame) -> VideoFrame:
    """Scale a frame of more than LARGEST_PICTURE pixels down by a whole number."""
    by = math.isqrt(max(0, frame.width * frame.height - 1) // LARGEST_PICTURE) + 1
    if by == 1:
        return frame
    return frame.reformat(width=max(1, frame.width // by), height=max(1, frame.height // by), format="rgb24")


def demux(
    container: InputContainer, stream: VideoStream, path: Path, report: ReadReport
) -> Iterator[Packet[VideoStream]]:
    """Return the packets of a stream, as `ffmpeg.packets` does.

    Args:
        container: The open file.
        stream: The stream to read.
        path: The file, for messages.
        report: Receives a note on unreadable parts.

    Raises:
        VideoError: The disk or the network fails.
    """

    def note(error: BaseException) -> None:
        report.add_note(f"a part of it cannot be read ({reason(error)}), and is skipped")

    return packets(container, stream, path, "the video", VideoError, note)


class UprightConverter:
    """A converter of frames to upright pictures with square pixels, all of the size of the first.

    Args:
        stream: The video stream.
        first: The first frame.
        report: Receives notes on changes of size and implausible pixel aspect ratios.
        size: (height, width) of the pictures in pixels; None for that of the first frame.
    """

    def __init__(
        self, stream: VideoStream, first: VideoFrame, report: ReadReport, size: tuple[int, int] | None = None
    ) -> None:
        self._stream = stream
        self._report = report
        self._codec_aspect = _aspect(stream.codec_context)
        self._aspect = _aspect(stream) or self._codec_aspect
        self.size = size or self._shape(first)

    def picture(self, frame: VideoFrame) -> UInt8:
        """Convert a frame.

        A frame of another aspect ratio is scaled without distortion and centred on black.

        Args:
            frame: The frame.

        Returns:
            (H, W, 3) uint8 RGB of `size`.

        Raises:
            Exception: The frame cannot be converted; PyAV raises any type.
        """
        turns = _quarter_turns(frame)
        height, width = shape = self._shape(frame)
        if shape == self.size:
            return _rgb(frame, shape, turns)
        self._report.add_note(
            f"its pictures change from {self.size[1]} x {self.size[0]} to {width} x {height} pixels (width x height), "
            "and are scaled to the first size"
        )
        scale = min(Fraction(self.size[0], height), Fraction(self.size[1], width))
        fitted = tuple(max(1, round(side * scale)) for side in shape)
        if all(abs(side - whole) <= _SAME for side, whole in zip(fitted, self.size, strict=True)):
            return _rgb(frame, self.size, turns)
        canvas = np.zeros((*self.size, 3), np.uint8)
        top, left = ((whole - side) // 2 for whole, side in zip(self.size, fitted, strict=True))
        canvas[top : top + fitted[0], left : left + fitted[1]] = _rgb(frame, (fitted[0], fitted[1]), turns)
        return canvas

    def full_size(self, first: VideoFrame) -> tuple[int, int]:
        """Return the (height, width) of pictures without the scaling to `LARGEST_PICTURE`.

        Args:
            first: The first frame.
        """
        coded = self._stream.codec_context
        if coded.width * coded.height <= LARGEST_PICTURE:
            return self.size
        return self._turned(coded.height, coded.width, first)

    def _shape(self, frame: VideoFrame) -> tuple[int, int]:
        """Return the (height, width) of a frame's picture before it is scaled to the first size."""
        return self._turned(frame.height, frame.width, frame)

    def _turned(self, height: int, width: int, frame: VideoFrame) -> tuple[int, int]:
        height, width = _squared(height, width, self._pixel_aspect())
        return (width, height) if _quarter_turns(frame) % 2 else (height, width)

    def _pixel_aspect(self) -> Fraction:
        """Return the pixel aspect ratio: the container's, until the codec's changes."""
        now = _aspect(self._stream.codec_context)
        if now != self._codec_aspect:
            self._codec_aspect = now
            self._aspect = now
        aspect = self._aspect or Fraction(1)
        if not Fraction(1, _WIDEST_PIXEL) <= aspect <= _WIDEST_PIXEL:
            self._report.add_note(f"it declares pixels {aspect} times as wide as high, which are treated as square")
            return Fraction(1)
        return aspect


def _aspect(source: object) -> Fraction | None:
    """Return the pixel aspect ratio of a stream or a decoder; None for unknown."""
    try:
        return getattr(source, "sample_aspect_ratio", None) or None
    except (ArithmeticError, ValueError):
        return None


def _squared(height: int, width: int, aspect: Fraction) -> tuple[int, int]:
    """Return the (height, width) with square pixels; enlarge the shorter pixel side if the limit allows."""
    if aspect == 1:
        return height, width
    longer = (height, round(width * aspect)) if aspect > 1 else (round(height / aspect), width)
    if longer[0] * longer[1] <= MAX_PIXELS:
        return longer
    return (max(1, round(height / aspect)), width) if aspect > 1 else (height, max(1, round(width * aspect)))


def _quarter_turns(frame: VideoFrame) -> int:
    """Return the number of counterclockwise quarter turns that make the picture upright."""
    try:
        return round(frame.rotation / 90) % 4
    except (ArithmeticError, ValueError):  # a degenerate matrix
        return 0


def _rgb(frame: VideoFrame, shape: tuple[int, int], turns: int) -> UInt8:
    """Convert to RGB and rotate; `shape` is the (height, width) of the result."""
    height, width = shape[::-1] if turns % 2 else shape
    # Always convert: PyAV does not copy a frame that is already RGB, and of a frame that is stored upside down it reads
    # memory outside of the picture.
    if frame.format.name == "rgb24":
        array = frame.to_ndarray(width=width, height=height, format="bgr24")[..., ::-1]
    else:
        array = frame.to_ndarray(width=width, height=height, format="rgb24")
    return np.ascontiguousarray(np.rot90(array, turns), np.uint8)
