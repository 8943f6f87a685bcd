"""Writer of video files: frames and sound are encoded in one pass."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec import Codec
from av.container import OutputContainer
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from av.video.stream import VideoStream

from vexpress_rt.config import brief
from vexpress_rt.errors import InputError, OutputError, VExpressError
from vexpress_rt.media.ffmpeg import reason
from vexpress_rt.media.recording import Recording
from vexpress_rt.types import UInt8
from vexpress_rt.utils.cancellation import check_cancelled
from vexpress_rt.utils.cpus import limit_threads
from vexpress_rt.utils.memory_errors import REMEDY, ran_out
from vexpress_rt.utils.native_calls import native_call
from vexpress_rt.utils.partial_file import partial_file
from vexpress_rt.utils.signals import run_uninterrupted

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
BT709 = 1  # number of the matrix in ITU-T H.273; PyAV has no name for it
AAC_BIT_RATES = {1: 128_000, 2: 192_000}  # bits per second by number of channels
SOUND_BLOCK = 1024  # samples that are encoded at a time


def check_output(output: str | os.PathLike[str]) -> Path:
    """Check that a video can be written to a path, before any work is done.

    An existing file is no error: a complete video replaces it.

    Args:
        output: The path of the video.

    Returns:
        `output` as a `Path`.

    Raises:
        OutputError: The extension is none of `CONTAINERS`, the path is a folder, or its folder is missing or not
            writable.
    """
    try:
        path = Path(output)
        os.lstat(path)
    except FileNotFoundError:
        pass
    except Exception as error:  # ValueError for a NUL or a lone surrogate; any type for a caller's own path type
        raise OutputError(f"cannot write {brief(output)}: {error}: choose another name") from error
    if path.suffix.lower() not in CONTAINERS:
        raise OutputError(f"cannot write {path}: its extension is {path.suffix!r}; expected {', '.join(CONTAINERS)}")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; expected the name of a file: add one, such as out.mp4")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}: create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"cannot write {path}: the folder {path.parent} is not writable: choose another or change its permissions"
        )
    return path


class VideoWriter:
    """An encoder of frames and sound into a file that appears under its name only when it is complete.

        with VideoWriter("out.mp4", (512, 512), Fraction(30), recording, 18) as writer:
            writer.write(frame)

    Video is H.264 in yuv420p: BT.709 matrix, limited range, chroma at the left, and flagged as such. Frame k has the
    time stamp k / fps (Matroska rounds to milliseconds). Sound is AAC at the recording's rate, or at the next higher
    rate that AAC has; values beyond [-1, 1] are clipped. The sound starts with the first frame and keeps its exact
    length, whatever the number of frames; a decoder that ignores the header's length adds the silence that fills the
    last AAC packet, less than 1024 samples. Sound and picture are interleaved as frames arrive, so that memory does not
    grow.

    Leaving the block normally completes the file. Leaving it by an exception removes the partial file; an older file of
    the same name stays. Partial files of killed processes are removed from the folder first: see
    `partial_file.partial_file`.

    Args:
        path: .mp4, .mov or .mkv.
        size: (height, width) of the frames in pixels, even numbers.
        fps: Frames per second, exact.
        audio: The recording whose `track` becomes the sound track; None for a silent video.
        quality: Constant rate factor of libx264, 0 (lossless) to 51.
        threads: CPU threads of the encoder and of the conversion of colours, as in `cpus.limit_threads`. The encoded
            bytes depend on it.

    Raises:
        ConfigError: `threads` is not a number from 1 to 1024.
        OutputError: The file cannot be written: see `check_output`; the disk is full, or memory ran out.
        InputError: A frame or size does not fit.
        AudioError: The temporary file that keeps a long recording cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: Fraction,
        audio: Recording | None,
        quality: int,
        threads: int | None = None,
    ) -> None:
        self._path = check_output(path)
        if min(size) < 2 or size[0] % 2 or size[1] % 2:
            raise InputError(f"a video of {size[0]} x {size[1]} pixels (height x width); expected even sizes above 0")
        if fps <= 0:
            raise InputError(f"a video of {fps} frames per second; expected more than 0")
        self._size, self._fps, self._audio, self._quality = size, fps, audio, quality
        self._count = 0
        self._threads = limit_threads(threads).threads
        self._converter = _converter(size, fps, self._threads)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._sound = _SoundTrack(self._audio) if self._audio is not None else None
            with _writing(self._path):
                self._partial = stack.enter_context(partial_file(self._path))
                self._container = self._open()
                stack.callback(_close_quietly, self._container)
                self._video = self._add_video()
                if self._sound is not None:
                    self._sound.attach(self._container)
            self._cleanup = stack.pop_all()
        return self

    def write(self, frame: UInt8) -> None:
        """Encode the next frame, and the sound up to its end.

        Args:
            frame: (H, W, 3) uint8 RGB; or (H * 3 / 2, W) uint8 NV12 in the colours of `native.nv12`, which is not
                converted.

        Raises:
            InputError: The frame has another shape or dtype.
            OutputError: The file cannot be written.
            AudioError: The temporary file that keeps a long recording cannot be read.
        """
        height, width = self._size
        if frame.shape not in ((height, width, 3), (height * 3 // 2, width)) or frame.dtype != np.uint8:
            raise InputError(
                f"frame {self._count} has shape {frame.shape} and dtype {frame.dtype}; "
                f"expected ({height}, {width}, 3) uint8 RGB, the size that the video was opened with, "
                f"or ({height * 3 // 2}, {width}) uint8 NV12"
            )
        with _writing(self._path), native_call():
            picture = self._from_rgb(frame) if frame.ndim == 3 else _from_nv12(frame)
            picture.pts, picture.time_base = self._count, 1 / self._fps
            picture.color_primaries, picture.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
            self._container.mux(self._video.encode(picture))
            self._count += 1
            if self._sound is not None:
                self._sound.advance(self._count / self._fps)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with native_call():
                    self._finish()
        finally:
            run_uninterrupted(self._cleanup.close)  # also removes the partial file, unless it became the video

    def _finish(self) -> None:
        if self._count == 0:
            raise InputError(f"no frame was written to {self._path}; expected at least one: a video needs a picture")
        with _writing(self._path):
            self._container.mux(self._video.encode(None))
            if self._sound is not None:
                self._sound.finish()
            check_cancelled()
            self._container.close()
            check_cancelled()
            with self._partial.open("rb+") as file:
                os.fsync(file.fileno())  # some file systems report a full disk only now
            self._partial.replace(self._path)

    def _open(self) -> OutputContainer:
        format_name = CONTAINERS[self._path.suffix.lower()]
        options = {}
        if format_name != "matroska":
            # The time unit of the tracks' lengths in the header; a millisecond by default.
            unit = self._sound.rate if self._sound is not None else self._fps.numerator
            options = {"movflags": "+faststart", "movie_timescale": str(unit)}
        return av.open(f"file:{self._partial}", "w", format=format_name, container_options=options)

    def _add_video(self) -> VideoStream:
        stream = self._container.add_stream("libx264", rate=self._fps, options={"crf": str(self._quality)})
        context = stream.codec_context
        context.thread_count = self._threads  # libx264 would count the CPUs of the machine
        context.height, context.width = self._size
        context.pix_fmt, context.time_base = "yuv420p", 1 / self._fps
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        context.colorspace, context.color_range = BT709, ColorRange.MPEG
        return stream

    def _from_rgb(self, frame: UInt8) -> VideoFrame:
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
        picture.pts, picture.time_base = self._count, 1 / self._fps
        self._converter.vpush(picture)
        return self._converter.vpull()


class _SoundTrack:
    """The AAC stream of a video, encoded in step with the picture.

    Attributes:
        rate: Sample rate of the stream in Hz.
    """

    def __init__(self, recording: Recording) -> None:
        assert recording.track is not None, "the recording was opened without its sound track"
        self._samples, self._source_rate = recording.track, recording.track_rate
        self._layout = "stereo" if self._samples.channels == 2 else "mono"
        self._sent = 0
        rates = Codec("aac", "w").audio_rates or [48000]
        self.rate = min((r for r in rates if r >= self._source_rate), default=max(rates))

    def attach(self, container: OutputContainer) -> None:
        """Add the stream to a container."""
        self._container = container
        self._stream: AudioStream = container.add_stream(
            "aac", rate=self.rate, layout=self._layout, bit_rate=AAC_BIT_RATES[self._samples.channels]
        )

    def advance(self, until: Fraction | None) -> None:
        """Encode the recording up to `until` seconds or slightly more; None for its end."""
        while self._sent < self._samples.count and (until is None or self._sent < until * self._source_rate):
            samples = self._samples.read(self._sent, min(self._sent + SOUND_BLOCK, self._samples.count))
            block = np.ascontiguousarray(samples.clip(-1, 1))
            frame = AudioFrame.from_ndarray(block, "fltp", self._layout)
            frame.sample_rate = self._source_rate
            # Without time stamps the encoder's own delay, 1024 samples, would be part of the sound.
            frame.pts, frame.time_base = self._sent, Fraction(1, self._source_rate)
            self._sent += block.shape[1]
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Encode the rest of the recording."""
        self.advance(None)
        self._container.mux(self._stream.encode(None))


def _from_nv12(frame: UInt8) -> VideoFrame:
    height = len(frame) * 2 // 3
    planes = np.empty(frame.shape, np.uint8)
    planes[:height] = frame[:height]
    planes[height:].reshape(2, -1)[...] = frame[height:].reshape(-1, 2).T  # interleaved blue and red -> two planes
    picture = VideoFrame.from_ndarray(planes, "yuv420p")
    picture.colorspace, picture.color_range = BT709, ColorRange.MPEG
    return picture


def _converter(size: tuple[int, int], fps: Fraction, threads: int) -> Graph:
    """Return a filter graph from RGB to yuv420p: BT.709, limited range, chroma at the left (the default of H.264).

    PyAV's own conversion has no option for the position of chroma, which is then half a pixel to the right.
    """
    graph = Graph()
    graph.threads = threads
    height, width = size
    graph.link_nodes(
        graph.add("buffer", f"video_size={width}x{height}:pix_fmt=rgb24:time_base={1 / fps}:pixel_aspect=1/1"),
        graph.add(
            "scale",
            "flags=bicubic+accurate_rnd+full_chroma_inp:in_range=pc:out_range=tv:out_color_matrix=bt709:out_chroma_loc=left",
        ),
        graph.add("format", "pix_fmts=yuv420p"),
        graph.add("buffersink"),
    ).configure()
    return graph


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Convert errors of FFmpeg, the disk and memory during writing to OutputError."""
    try:
        yield
    except VExpressError:
        raise
    except (av.FFmpegError, OSError, MemoryError) as error:
        if ran_out(error):
            raise OutputError(
                f"cannot write {path}: memory ran out ({reason(error)}), and no partial video is left: {REMEDY}"
            ) from error
        folder = path.absolute().parent
        free = "an unknown amount"
        with suppress(OSError):
            free = f"{shutil.disk_usage(folder).free / 1e6:.1f} MB"
        raise OutputError(
            f"cannot write {path}: {reason(error)}; {free} free in {folder}, and no partial video is left: "
            "make room or choose another folder"
        ) from error


def _close_quietly(container: OutputContainer) -> None:
    """Close a container whose file is removed next, and ignore errors."""
    with suppress(av.FFmpegError, OSError):
        container.close()
