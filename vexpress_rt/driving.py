"""A driving video -> its frames, upright and at a constant rate."""

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
from vexpress_rt.media import MAX_SECONDS, reason
from vexpress_rt.records import UInt8
from vexpress_rt.video_decoder import Findings, Upright, decode, demux, open_video, unreadable

DEFAULT_FPS = Fraction(25)  # for a file that does not tell, such as one of a single frame
LONGEST_HOLD = 600  # seconds that a frame may stand; where time stamps leave more, they have jumped

_STAMPS = 1000  # packets whose time stamps the rate is measured by
_STAMP_BYTES = 64 * 2**20  # of these packets
_ROUNDING = Fraction(1, 500)  # of a rate that is measured by time stamps in whole milliseconds
_CLOSE = Fraction(1, 10)  # by which a rate that the file tells may miss the measured one
_LARGEST_STEP_BACK = 1  # seconds by which the time stamp of a frame may be out of order
_STRAYS = 3  # frames in a row that are out of order
_JUMP = "its time stamps jump, as where recordings are joined; what follows goes on at once"


@dataclass(frozen=True)
class DrivingVideo:
    """A video to take keypoints from.

    path: the file.  fps: frames a second at which `frames` yields.
    size: (height, width) in pixels of its pictures, with square pixels, after rotation; that of the first frame.
    even: whether frames are taken at even distances, because the time stamps say nothing.
    shown: (height, width) of the pictures that `frames` gives; None if it is `size`, as it is unless these would have
        more than `video_decoder.LARGEST_PICTURE` pixels.
    """

    path: Path
    fps: Fraction
    size: tuple[int, int]
    even: bool = False
    shown: tuple[int, int] | None = None

    def frames(self, findings: Findings | None = None) -> Iterator[UInt8]:
        """Decode from the start: (H, W, 3) uint8 RGB frames, frame k being the nearest in time to k / fps.

        So a video of variable frame rate is repeated or thinned where it strays from its rate, and one of constant
        rate comes out frame by frame. Time counts from the first frame, or from sound in the file that begins before
        it, as in `audio_reader.sound_blocks`, so that both stay together. Only two frames are held at a time.
        `findings`, and what is raised, are those of `runs`.
        """
        with closing(self.runs(findings)) as runs:
            for picture, repeats in runs:
                for _ in range(repeats):
                    assert picture is not None
                    yield picture

    def runs(self, findings: Findings | None = None) -> Generator[tuple[UInt8 | None, int], None, None]:
        """The frames of `frames`, as (picture, how often it stands): once for each frame that is decoded.

        The picture is None where it stands not at all. Frames that cannot be decoded are passed over, and the one
        before stands for them; those of another size are scaled to the first. findings: is told of all that.

        Raises VideoError where more of the frames are damaged than are not, where none can be decoded, and for a video
        that goes on for more than `media.MAX_SECONDS`.
        """
        findings = Findings() if findings is None else findings
        index, time = 0, Fraction(0)
        with open_video(self.path) as (container, stream):
            frames = decode(self.path, findings, demux(container, stream, self.path, findings))
            upright: Upright | None = None
            for time, following, frame in _with_following(_timed(frames, container, stream, self, findings)):
                upright = upright or Upright(stream, frame, findings, self.shown or self.size)
                # The last frame stands for one period, whatever length the file gives it.
                until = time + 1 / (2 * self.fps) if following is None else (time + following) / 2
                if until > MAX_SECONDS:
                    hours = MAX_SECONDS / 3600
                    raise VideoError(f"the video {self.path} lasts more than {hours:g} hours: cut it to parts")
                stop = max(index, -(-until * self.fps // 1))  # the first k with k / fps >= until
                picture = _picture(upright, frame, self.path, findings) if stop > index else None
                if picture is not None or stop == index:
                    yield picture, int(stop) - index
                    index = int(stop)
            _check_end(time + 1 / self.fps, container, stream, findings)
        findings.check(self.path)
        if index == 0:
            raise _empty(self.path, findings)


def read_frames(path: str | Path) -> DrivingVideo:
    """Open a video: its rate and size now, its frames when `DrivingVideo.frames` is called.

    Any container of `media.READERS`. Quarter turns in the file's metadata (a phone held upright) are applied, and
    pixels that are not square are made so. The rate is the nominal or the average one where the time stamps agree with
    it, and else measured by them: a browser's recording tells none, and a thousand a second may be a time base.

    Raises VideoError for a file that is missing, unreadable or damaged at its start, holds no picture (an album cover
    does not count), or has frames of more than `media.MAX_PIXELS` pixels.
    """
    path, findings = Path(path), Findings()
    with open_video(path) as (container, stream):
        seen = _Stamps(_by_decoding(container))
        packets = seen.watch(demux(container, stream, path, findings))
        first = next(decode(path, findings, packets), None)
        if first is None:
            raise _empty(path, findings)
        for _ in packets:  # not decoded, only looked at
            if seen.enough:
                break
        try:
            fps = _rate(stream, seen.measured())
            upright = Upright(stream, first, findings)
            size = upright.full_size(first)
        except Exception as error:
            raise unreadable(path, error) from error
    return DrivingVideo(path, fps, size, seen.useless(), upright.size)


def _empty(path: Path, findings: Findings) -> VideoError:
    why = f" ({findings.why})" if findings.why else ""
    return VideoError(f"the video {path} holds no frame that can be decoded{why}: check that it plays")


def _by_decoding(container: InputContainer) -> bool:
    """Whether frames come at their time of decoding: AVI keeps no other, and what is reported is out of order."""
    return container.format.name == "avi"


class _Stamps:
    """Time stamps of the first packets, seconds. enough: whether no more are needed."""

    def __init__(self, by_decoding: bool) -> None:
        self.enough = False
        self._by_decoding = by_decoding
        self._stamps: list[Fraction] = []

    def watch(self, packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
        """Give the packets on, with a look at the first."""
        size = 0
        for count, packet in enumerate(packets, start=1):
            tick = packet.dts if self._by_decoding or packet.pts is None else packet.pts
            if not self.enough and tick is not None and packet.time_base and packet.size:
                self._stamps.append(tick * packet.time_base)
            size += packet.size
            self.enough = count >= _STAMPS or size > _STAMP_BYTES
            yield packet

    def useless(self) -> bool:
        """Whether so many frames have the same as the one before that they tell no time."""
        doubles = sum(earlier == later for earlier, later in pairwise(self._stamps))
        return 2 * doubles > len(self._stamps)

    def _distances(self) -> Iterator[Fraction]:
        """From each frame to the next that is shown, without jumps."""
        piece: list[Fraction] = []
        for stamp in (*self._stamps, None):
            if stamp is None or (piece and not -_LARGEST_STEP_BACK <= stamp - piece[-1] <= LONGEST_HOLD):
                yield from (later - earlier for earlier, later in pairwise(sorted(set(piece))))
                piece.clear()
            if stamp is not None:
                piece.append(stamp)

    def measured(self) -> tuple[Fraction, Fraction] | None:
        """Frames a second: by the mean of the distances, but of gaps, and by the middle one; None without any."""
        distances = list(self._distances())
        if not distances or self.useless():
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
        told = [rate for rate in (nominal, average) if rate and any(_agree(rate, found) for found in measured)]
        rate = told[0] if told else _usual(measured[0])
    return exact_rate(min(max(rate, Fraction(MIN_FPS)), Fraction(MAX_FPS)))


def _usual(rate: Fraction) -> Fraction:
    """The whole or broadcast rate (29.97) next to a measured one, if it is as near as rounded stamps would have it."""
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
    findings: Findings,
) -> Iterator[tuple[Fraction, VideoFrame]]:
    """Frames with their exact time in seconds, which never goes back, after the file's first picture or sound."""
    clock, by_decoding = _Clock(1 / video.fps, findings), _by_decoding(container)
    for frame in frames:
        tick, base = frame.dts if by_decoding else frame.pts, frame.time_base or stream.time_base
        stamp = None if tick is None or not base or video.even else tick * base
        if stamp is not None and container.streams.audio and not by_decoding:
            clock.begin(stamp - Fraction(container.start_time or 0, 1_000_000))
        yield clock.time(stamp), frame
    if video.even:
        findings.tell("its time stamps do not tell when frames are shown; they are taken at even distances")


class _Clock:
    """Makes times of time stamps, in seconds after the first frame, or after sound that begins before it.

    Gaps are kept. A frame without a stamp follows by a period. Of a few frames that are out of order none is shown.
    Where stamps jump, back or by more than LONGEST_HOLD, as in recordings that were joined, the frame follows by a
    period, and the later ones with it.
    """

    def __init__(self, period: Fraction, findings: Findings) -> None:
        self._period = period
        self._findings = findings
        self._now: Fraction | None = None
        self._start: Fraction | None = None  # what is taken off a stamp
        self._behind = 0
        self._late = Fraction(0)

    def begin(self, late: Fraction) -> None:
        """Let the first frame be shown `late` seconds after the beginning, if that is a time at all."""
        if self._now is None and 0 < late <= LONGEST_HOLD:
            self._late = late

    def time(self, stamp: Fraction | None) -> Fraction:
        """When the next frame is shown. stamp: seconds, or None where there is none."""
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
            self._findings.tell(_JUMP)
            self._start, now = stamp - following, following
        self._behind = 0
        self._now = now
        return now


def _with_following(
    frames: Iterator[tuple[Fraction, VideoFrame]],
) -> Iterator[tuple[Fraction, Fraction | None, VideoFrame]]:
    """(time, time of the next frame or None, frame)."""
    held = next(frames, None)
    for later in frames:
        assert held is not None
        yield held[0], later[0], held[1]
        held = later
    if held is not None:
        yield held[0], None, held[1]


def _picture(upright: Upright, frame: VideoFrame, path: Path, findings: Findings) -> UInt8 | None:
    """The picture of a frame; None for one that cannot be converted, which counts as damaged."""
    try:
        return upright.picture(frame)
    except MemoryError as error:
        raise unreadable(path, error) from error
    except Exception as error:
        findings.flawed += 1
        findings.why = findings.why or reason(error)
        return None


def _check_end(end: Fraction, container: InputContainer, stream: VideoStream, findings: Findings) -> None:
    """Tell of a video that ends long before the file says; end: seconds after the first frame.

    Where time stamps have jumped, the length that the file declares counts the jump as well.
    """
    if _JUMP in findings.others:
        return
    declared = Fraction(0)
    if stream.duration and stream.time_base:
        declared = stream.duration * stream.time_base
    elif container.duration and len(container.streams) == 1:
        declared = Fraction(container.duration, 1_000_000)
    if declared - end > max(Fraction(1), declared / 20):
        findings.tell(f"it ends after {float(end):.1f} of the {float(declared):.1f} seconds that it declares")
