"""Driving videos: their frames, upright and at a constant rate."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median_low

from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vexpress_rt.config import MAX_FPS, MIN_FPS, exact_rate
from vexpress_rt.errors import VideoError
from vexpress_rt.media.ffmpeg import MAX_SECONDS, reason
from vexpress_rt.media.video_decoder import ReadReport, UprightConverter, decode, demux, open_video, unreadable
from vexpress_rt.types import UInt8

DEFAULT_FPS = Fraction(25)  # for a file without a rate, such as a single frame
LONGEST_HOLD = 600  # seconds that a frame may be shown; a longer gap is a jump of the time stamps

_STAMPS = 1000  # packets for the measurement of the rate
_STAMP_BYTES = 64 * 2**20  # limit of their total size
_ROUNDING = Fraction(1, 500)  # relative error of a rate measured by time stamps in milliseconds
_CLOSE = Fraction(1, 10)  # largest relative difference between the declared and the measured rate
_LARGEST_STEP_BACK = 1  # seconds by which a time stamp may be out of order
_STRAYS = 3  # consecutive frames out of order, from which on the time stamps count as a jump
_JUMP = "its time stamps jump, as in joined recordings; the frames after the jump follow without a gap"


@dataclass(frozen=True)
class DrivingVideo:
    """A driving video.

    Attributes:
        path: The file.
        fps: Frame rate of `frames`.
        size: (height, width) of the first picture in pixels, with square pixels, after rotation.
        even: Whether frames are spaced evenly, because the time stamps are unusable.
        shown: (height, width) of the pictures of `frames`; None if equal to `size`. It is smaller for pictures of more
            than `video_decoder.LARGEST_PICTURE` pixels.
    """

    path: Path
    fps: Fraction
    size: tuple[int, int]
    even: bool = False
    shown: tuple[int, int] | None = None

    def frames(self, report: ReadReport | None = None) -> Iterator[UInt8]:
        """Decode from the start at a constant rate: frame k is the decoded frame nearest in time to k / fps.

        Frames of a variable rate are repeated or dropped; frames of a constant rate are unchanged. Time starts with the
        first frame, or with sound that begins before it, as in `audio_reader.sound_blocks`, so that both stay in sync.
        Two frames are in memory at a time.

        Args:
            report: As in `runs`.

        Yields:
            (H, W, 3) uint8 RGB.

        Raises:
            VideoError: As in `runs`.
        """
        with closing(self.runs(report)) as runs:
            for picture, repeats in runs:
                for _ in range(repeats):
                    assert picture is not None
                    yield picture

    def runs(self, report: ReadReport | None = None) -> Generator[tuple[UInt8 | None, int], None, None]:
        """Decode as `frames` does, but yield each decoded frame once with its number of repeats.

        The frame before an undecodable one is repeated; frames of another size are scaled to the first.

        Args:
            report: Receives notes on damage and repairs; None discards them.

        Yields:
            (picture, repeats); the picture is None for 0 repeats.

        Raises:
            VideoError: More than half of the frames are damaged, none can be decoded, or the video lasts more than
                `ffmpeg.MAX_SECONDS`.
        """
        report = ReadReport() if report is None else report
        index, time = 0, Fraction(0)
        with open_video(self.path) as (container, stream):
            frames = decode(self.path, report, demux(container, stream, self.path, report))
            upright: UprightConverter | None = None
            for time, following, frame in _with_following(_timed(frames, container, stream, self, report)):
                upright = upright or UprightConverter(stream, frame, report, self.shown or self.size)
                # The last frame is shown for one period, whatever its duration in the file.
                until = time + 1 / (2 * self.fps) if following is None else (time + following) / 2
                if until > MAX_SECONDS:
                    hours = MAX_SECONDS / 3600
                    raise VideoError(f"the video {self.path} lasts more than {hours:g} hours: cut it into parts")
                stop = max(index, -(-until * self.fps // 1))  # the first k with k / fps >= until
                picture = _picture(upright, frame, self.path, report) if stop > index else None
                if picture is not None or stop == index:
                    yield picture, int(stop) - index
                    index = int(stop)
            _check_end(time + 1 / self.fps, container, stream, report)
        report.check(self.path)
        if index == 0:
            raise _empty(self.path, report)


def read_frames(path: str | Path) -> DrivingVideo:
    """Open a driving video and read its rate and size; `DrivingVideo.frames` decodes it.

    Rotation metadata (a phone held upright) is applied, and pixels are made square. The rate is the declared nominal or
    average rate if the time stamps agree with it, and else their measured rate: a browser's recording declares none,
    and a declared rate of 1000 may be a time base.

    Args:
        path: A file in any container of `ffmpeg.READERS`.

    Raises:
        VideoError: The file is missing, unreadable, damaged at its start, without video (album covers do not count), or
            has frames of more than `ffmpeg.MAX_PIXELS` pixels.
    """
    path, report = Path(path), ReadReport()
    with open_video(path) as (container, stream):
        stamps = _TimeStamps(_by_decoding(container))
        packets = stamps.record(demux(container, stream, path, report))
        first = next(decode(path, report, packets), None)
        if first is None:
            raise _empty(path, report)
        for _ in packets:  # only for their time stamps
            if stamps.complete:
                break
        try:
            fps = _rate(stream, stamps.measured())
            upright = UprightConverter(stream, first, report)
            size = upright.full_size(first)
        except Exception as error:
            raise unreadable(path, error) from error
    return DrivingVideo(path, fps, size, stamps.unusable(), upright.size)


def _empty(path: Path, report: ReadReport) -> VideoError:
    why = f" ({report.why})" if report.why else ""
    return VideoError(f"the video {path} holds no frame that can be decoded{why}: check that it plays")


def _by_decoding(container: InputContainer) -> bool:
    """Return whether frames are timed by DTS: AVI has no PTS, and FFmpeg's guesses are out of order."""
    return container.format.name == "avi"


class _TimeStamps:
    """Time stamps of the first packets in seconds.

    Attributes:
        complete: Whether no more are needed.
    """

    def __init__(self, by_decoding: bool) -> None:
        self.complete = False
        self._by_decoding = by_decoding
        self._stamps: list[Fraction] = []

    def record(self, packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
        """Yield the packets, and record the time stamps of the first ones."""
        size = 0
        for count, packet in enumerate(packets, start=1):
            tick = packet.dts if self._by_decoding or packet.pts is None else packet.pts
            if not self.complete and tick is not None and packet.time_base and packet.size:
                self._stamps.append(tick * packet.time_base)
            size += packet.size
            self.complete = count >= _STAMPS or size > _STAMP_BYTES
            yield packet

    def unusable(self) -> bool:
        """Return whether most time stamps equal the previous one."""
        doubles = sum(earlier == later for earlier, later in pairwise(self._stamps))
        return 2 * doubles > len(self._stamps)

    def _distances(self) -> Iterator[Fraction]:
        """Yield the time between consecutive frames in presentation order, without jumps."""
        piece: list[Fraction] = []
        for stamp in (*self._stamps, None):
            if stamp is None or (piece and not -_LARGEST_STEP_BACK <= stamp - piece[-1] <= LONGEST_HOLD):
                yield from (later - earlier for earlier, later in pairwise(sorted(set(piece))))
                piece.clear()
            if stamp is not None:
                piece.append(stamp)

    def measured(self) -> tuple[Fraction, Fraction] | None:
        """Return the frame rate by the mean distance, without gaps, and by the median one; None without distances."""
        distances = list(self._distances())
        if not distances or self.unusable():
            return None
        middle = median_low(distances)
        usual = [distance for distance in distances if distance <= 2 * middle]
        return len(usual) / sum(usual, Fraction(0)), 1 / middle


def _rate(stream: VideoStream, measured: tuple[Fraction, Fraction] | None) -> Fraction:
    nominal, average = stream.guessed_rate, stream.average_rate
    if measured is None:
        rate = nominal or average or DEFAULT_FPS
        if rate > MAX_FPS or (average and rate > 2 * average):
            rate = average or DEFAULT_FPS
        rate = DEFAULT_FPS if rate > MAX_FPS else rate
    else:
        declared = [rate for rate in (nominal, average) if rate and any(_agree(rate, found) for found in measured)]
        rate = declared[0] if declared else _usual(measured[0])
    return exact_rate(min(max(rate, Fraction(MIN_FPS)), Fraction(MAX_FPS)))


def _usual(rate: Fraction) -> Fraction:
    """Return the whole or broadcast rate (29.97) that a measured rate rounds to, or the measured rate."""
    whole, broadcast = Fraction(round(rate)), Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    nearest = min(whole, broadcast, key=lambda usual: abs(usual - rate))
    return nearest if abs(nearest - rate) <= _ROUNDING * rate else rate


def _agree(rate: Fraction, found: Fraction) -> bool:
    return abs(rate - found) <= _CLOSE * found


def _timed(
    frames: Iterator[VideoFrame],
    container: InputContainer,
    stream: VideoStream,
    video: DrivingVideo,
    report: ReadReport,
) -> Iterator[tuple[Fraction, VideoFrame]]:
    """Yield frames with their exact, non-decreasing time in seconds after the file's first picture or sound."""
    clock, by_decoding = _Clock(1 / video.fps, report), _by_decoding(container)
    for frame in frames:
        tick, base = frame.dts if by_decoding else frame.pts, frame.time_base or stream.time_base
        stamp = None if tick is None or not base or video.even else tick * base
        if stamp is not None and container.streams.audio and not by_decoding:
            clock.begin(stamp - Fraction(container.start_time or 0, 1_000_000))
        yield clock.time(stamp), frame
    if video.even:
        report.add_note("its time stamps are unusable; frames are spaced evenly")


class _Clock:
    """Converts time stamps to seconds after the first frame, or after sound that begins before it.

    Gaps are kept. A frame without a time stamp follows after one period. A few frames out of order are dropped. After a
    jump of the time stamps, back or by more than LONGEST_HOLD, as in concatenated recordings, the next frame follows
    after one period.
    """

    def __init__(self, period: Fraction, report: ReadReport) -> None:
        self._period = period
        self._report = report
        self._now: Fraction | None = None
        self._start: Fraction | None = None  # offset that is subtracted from time stamps
        self._behind = 0
        self._late = Fraction(0)

    def begin(self, late: Fraction) -> None:
        """Show the first frame `late` seconds after the sound begins, if that is a plausible time."""
        if self._now is None and 0 < late <= LONGEST_HOLD:
            self._late = late

    def time(self, stamp: Fraction | None) -> Fraction:
        """Return the time of the next frame in seconds; `stamp` is its time stamp in seconds, or None."""
        following = self._late if self._now is None else self._now + self._period * (1 + self._behind)
        if stamp is None:
            self._now = following
            return following
        if self._start is None:
            self._start = stamp - following
        now, last = stamp - self._start, self._now
        if last is not None and not last <= now <= last + LONGEST_HOLD:
            if last - _LARGEST_STEP_BACK <= now < last and self._behind < _STRAYS - 1:
                self._behind += 1
                return last
            self._report.add_note(_JUMP)
            self._start, now = stamp - following, following
        self._behind = 0
        self._now = now
        return now


def _with_following(
    frames: Iterator[tuple[Fraction, VideoFrame]],
) -> Iterator[tuple[Fraction, Fraction | None, VideoFrame]]:
    """Yield (time, time of the next frame or None, frame)."""
    held = next(frames, None)
    for later in frames:
        assert held is not None
        yield held[0], later[0], held[1]
        held = later
    if held is not None:
        yield held[0], None, held[1]


def _picture(upright: UprightConverter, frame: VideoFrame, path: Path, report: ReadReport) -> UInt8 | None:
    """Convert a frame; return None, and count it as damaged, if that fails."""
    try:
        return upright.picture(frame)
    except MemoryError as error:
        raise unreadable(path, error) from error
    except Exception as error:
        report.flawed += 1
        report.why = report.why or reason(error)
        return None


def _check_end(end: Fraction, container: InputContainer, stream: VideoStream, report: ReadReport) -> None:
    """Note a video that ends long before its declared length; `end` is in seconds after the first frame.

    After a jump of the time stamps the declared length includes the jump, so it is not compared.
    """
    if _JUMP in report.others:
        return
    declared = Fraction(0)
    if stream.duration and stream.time_base:
        declared = stream.duration * stream.time_base
    elif container.duration and len(container.streams) == 1:
        declared = Fraction(container.duration, 1_000_000)
    if declared - end > max(Fraction(1), declared / 20):
        report.add_note(f"it ends after {float(end):.1f} of the {float(declared):.1f} seconds that it declares")
