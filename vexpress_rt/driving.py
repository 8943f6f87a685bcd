"""A driving video -> its frames, upright and at a constant rate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vexpress_rt.config import MAX_FPS, MIN_FPS
from vexpress_rt.errors import VideoError
from vexpress_rt.media import MAX_PIXELS, MAX_SECONDS, open_media, reason
from vexpress_rt.records import UInt8

DEFAULT_FPS = Fraction(25)  # for a file that does not tell, such as one of a single frame


@dataclass(frozen=True)
class DrivingVideo:
    """A video to take keypoints from.

    path: the file.  fps: frames a second at which `frames` yields.  size: (height, width) in pixels, after rotation.
    """

    path: Path
    fps: Fraction
    size: tuple[int, int]

    def frames(self) -> Iterator[UInt8]:
        """Decode from the start: (H, W, 3) uint8 RGB frames, frame k being the nearest in time to k / fps.

        So a video of variable frame rate is repeated or thinned where it strays from its rate, and one of constant
        rate comes out frame by frame. Time counts from the first frame. Only two frames are held at a time.

        Raises VideoError naming the frame where the file is damaged, changes its size, or goes on for more than
        `media.MAX_SECONDS`.
        """
        index = 0
        for time, following, frame in _with_following(_timed_frames(self.path, self.fps)):
            # The last frame stands for one period, whatever length the file gives it.
            until = time + 1 / (2 * self.fps) if following is None else (time + following) / 2
            if until > MAX_SECONDS:
                raise VideoError(f"the video {self.path} lasts more than {MAX_SECONDS / 3600:g} hours: cut it to parts")
            if index / self.fps < until:
                picture = _picture(frame, self.size, self.path, index)
            while index / self.fps < until:
                yield picture
                index += 1


def read_frames(path: str | Path) -> DrivingVideo:
    """Open a video: its rate and size now, its frames when `DrivingVideo.frames` is called.

    Any container of `media.READERS`. Quarter turns in the file's metadata (a phone held upright) are applied;
    pixels are taken as square. The rate is the nominal one where that is plausible, else the average.

    Raises VideoError for a file that is missing, unreadable or damaged at its start, holds no picture (an album cover
    does not count), or has frames of more than `media.MAX_PIXELS` pixels.
    """
    path = Path(path)
    with _open_video(path) as (container, stream):
        fps = _rate(stream)
        first = next(_decoded(container, stream, path), None)
        if first is None:
            raise VideoError(f"the video {path} holds no frame that can be decoded: check that it plays")
        turned = _quarter_turns(first) % 2
        size = (first.width, first.height) if turned else (first.height, first.width)
    return DrivingVideo(path, fps, size)


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    with open_media(path, "the video", VideoError) as container:
        covers = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if s.codec_context is not None and not s.disposition & covers]
        if not streams:
            found = ", ".join(s.type for s in container.streams) or "nothing"
            raise VideoError(f"{path} holds {found} but no moving picture that can be read; expected a video of a face")
        stream = streams[0]
        if stream.width * stream.height > MAX_PIXELS:
            raise VideoError(
                f"the video {path} has {stream.width} x {stream.height} pixels; expected at most {MAX_PIXELS} in all: "
                "scale it down"
            )
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        stream.thread_type = "AUTO"
        yield container, stream


def _rate(stream: VideoStream) -> Fraction:
    """The nominal rate, unless it is finer than the frames come (a time base taken for a rate); then the average."""
    nominal, average = stream.guessed_rate, stream.average_rate
    rate = nominal or average or DEFAULT_FPS
    if average and (rate > 2 * average or rate > MAX_FPS):
        rate = average
    return min(max(rate, Fraction(MIN_FPS)), Fraction(MAX_FPS)).limit_denominator(1001)


def _decoded(container: InputContainer, stream: VideoStream, path: Path) -> Iterator[VideoFrame]:
    count = 0
    try:
        for packet in container.demux(stream):
            for frame in packet.decode():
                assert isinstance(frame, VideoFrame)
                if frame.is_corrupt or packet.is_corrupt:
                    raise av.InvalidDataError(0, "decoded with errors")
                yield frame
                count += 1
    except (av.FFmpegError, OSError) as error:
        raise _damaged(path, count, reason(error)) from error


def _damaged(path: Path, frame: int, why: str) -> VideoError:
    return VideoError(
        f"the video {path} is damaged at frame {frame} ({why}): transfer it anew, or cut it before that frame"
    )


def _timed_frames(path: Path, fps: Fraction) -> Iterator[tuple[Fraction, VideoFrame]]:
    """Frames with their exact time in seconds after the first; a frame without one follows by a period."""
    with _open_video(path) as (container, stream):
        # AVI keeps no times of presentation: those reported for it are out of order, those of decoding are not.
        by_decoding = container.format.name == "avi"
        start, time = None, -1 / fps
        for frame in _decoded(container, stream, path):
            tick = frame.dts if by_decoding else frame.pts
            stamp = None if tick is None or frame.time_base is None else tick * frame.time_base
            start = stamp if start is None and stamp is not None else start
            time = stamp - start if stamp is not None and start is not None else time + 1 / fps
            yield time, frame


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


def _quarter_turns(frame: VideoFrame) -> int:
    """How many quarter turns counterclockwise bring the picture upright."""
    return round(frame.rotation / 90) % 4


def _picture(frame: VideoFrame, size: tuple[int, int], path: Path, index: int) -> UInt8:
    try:
        picture = np.rot90(frame.to_ndarray(format="rgb24"), _quarter_turns(frame))
    except (av.FFmpegError, ValueError) as error:
        raise _damaged(path, index, reason(error)) from error
    if picture.shape[:2] != size:
        raise VideoError(
            f"the video {path} changes at frame {index} from {size[0]} x {size[1]} to {picture.shape[0]} x "
            f"{picture.shape[1]} pixels (height x width); expected one size: encode it anew"
        )
    return np.ascontiguousarray(picture, np.uint8)
