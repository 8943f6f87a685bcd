"""Conversion of decoded frames to float32 of one sample rate and channel layout."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.filter import Graph

from vexpress_rt.errors import AudioError
from vexpress_rt.media.channel_mix import conversion_weights, mix
from vexpress_rt.media.ffmpeg import MAX_CHANNELS, MAX_RATE, MIN_RATE, counted, reason
from vexpress_rt.types import Float32


class AudioConverter:
    """A converter of frames to (channels, n) float32, full scale 1, with the layout and rate of the first frame.

    libswresample does the conversion, because PyAV's `AudioFrame.planes` reads beyond FFmpeg's list of planes for eight
    or more channels. The filters return packed samples, which have one plane.

    Args:
        first: The first frame.
        path: The file, for messages.

    Attributes:
        layout: FFmpeg's name of the first frame's channel layout.
    """

    def __init__(self, first: AudioFrame, path: Path) -> None:
        self.layout = first.layout.name
        self._channels, self._rate, self._path = first.layout.nb_channels, first.sample_rate, path
        self._format: tuple[str, str, int] | None = None
        self._graph: Graph | None = None
        self._changes: list[tuple[Fraction, int, str]] = []

    def convert(self, frame: AudioFrame, at: Fraction) -> list[Float32]:
        """Convert a frame.

        Args:
            frame: The frame; its time stamp is removed.
            at: Seconds of sound before the frame, for messages.

        Returns:
            (channels, n) float32 blocks; none while the filters buffer samples.

        Raises:
            AudioError: The frame has a rate or channels out of range, or cannot be converted.
        """
        found = frame.format.name, frame.layout.name, frame.sample_rate
        pieces = []
        try:
            if found != self._format:
                pieces = self.finish()
                self._open(frame, found, at)
            assert self._graph is not None
            frame.pts = None  # with time stamps, the filters drop or repeat samples at jumps
            self._graph.push(frame)
            return [*pieces, *self._pull()]
        except MemoryError:
            raise
        except Exception as error:  # a frame with impossible parameters
            raise AudioError(
                f"the audio {self._path}, {float(at):.2f} seconds in, has samples that cannot be converted "
                f"({reason(error)}): convert it to WAV"
            ) from error

    def _open(self, frame: AudioFrame, found: tuple[str, str, int], at: Fraction) -> None:
        if self._format is not None and (found[1:] != self._format[1:]):
            check_format(frame, self._path)
            self._changes.append((at, frame.sample_rate, frame.layout.name))
        graph = Graph()
        source = f"sample_fmt={found[0]}:channel_layout={found[1]}:sample_rate={found[2]}:time_base=1/{found[2]}"
        nodes = [
            graph.add("abuffer", source),
            graph.add("aformat", f"sample_fmts=flt:sample_rates={self._rate}"),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        self._graph, self._format = graph, found
        self._weights = None
        if frame.layout.nb_channels != self._channels or (self.layout != found[1] and self._channels > 2):
            self._weights = conversion_weights(found[1], frame.layout.nb_channels, self.layout, self._channels)

    def finish(self) -> list[Float32]:
        """Return the samples that remain in the filters after a conversion of the rate, as blocks."""
        if self._graph is None or self._format is None or self._format[2] == self._rate:
            return []
        self._graph.push(None)
        return self._pull()

    def _pull(self) -> list[Float32]:
        assert self._graph is not None
        pieces: list[Float32] = []
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return pieces
            assert isinstance(frame, AudioFrame)
            count = frame.layout.nb_channels
            samples = frame.to_ndarray().astype(np.float32, copy=False).reshape(-1, count).T
            if self._weights is not None:
                samples = mix(samples, self._weights)
            pieces.append(np.ascontiguousarray(samples))

    @property
    def notes(self) -> list[str]:
        """Notes on changes of the format within the recording, one sentence each."""
        if not self._changes:
            return []
        at, rate, layout = self._changes[0]
        more = f" ({counted(len(self._changes) - 1, 'more change')})" if len(self._changes) > 1 else ""
        return [
            f"audio: {float(at):.2f} seconds in, the sound changes to {rate} Hz, {layout}{more}; all of it is "
            f"converted to {self._rate} Hz, {self.layout}"
        ]


def check_format(frame: AudioFrame, path: Path) -> None:
    """Check the rate and the channels of a frame.

    Args:
        frame: The frame.
        path: The file, for messages.

    Raises:
        AudioError: The rate is not in `MIN_RATE` to `MAX_RATE`, or the channels are not 1 to `MAX_CHANNELS`.
    """
    rate, channels = frame.sample_rate, frame.layout.nb_channels
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(
            f"the audio {path} has {rate} Hz; expected {MIN_RATE} to {MAX_RATE}: resample it, to 16000 for example"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"the audio {path} has {channels} channels; expected 1 to {MAX_CHANNELS}: convert it to mono or stereo"
        )
