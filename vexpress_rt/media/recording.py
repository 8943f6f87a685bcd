"""Recordings of speech: decoded once, checked, measured, and kept for the audio encoder and the sound track."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from vexpress_rt.media.audio_input import AudioSource, check_source
from vexpress_rt.media.audio_reader import SoundInfo, sound_blocks
from vexpress_rt.media.channel_mix import Weights, mix, mono_weights, track_weights
from vexpress_rt.media.phase_cancellation import CancellationDetector
from vexpress_rt.media.resampler import Resampler
from vexpress_rt.media.sample_store import SampleArray, Samples, SampleStore
from vexpress_rt.media.voice_activity import VoiceDetector, VoiceSegments
from vexpress_rt.types import FileStamp, Float32, frame_count
from vexpress_rt.utils.cancellation import check_cancelled

_PROGRESS_SECONDS = 0.1  # between two calls of `progress`


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Speech that was decoded once. Nothing of the file is read afterwards.

    Attributes:
        samples: Mono samples at `rate`, the input of the audio encoder before its normalisation.
        rate: Sample rate of the model in Hz.
        duration: Exact length of the decoded recording in seconds; decides the number of video frames.
        mean: Mean of the samples.
        variance: Variance of the samples.
        voice: The voiced segments, in samples; see `voice_activity.VoiceDetector`.
        track: Mono or stereo samples at `track_rate` for the sound track of a video; None if not requested.
        track_rate: Sample rate of the recording in Hz.
        notes: Repairs and omissions of reading, for `Video.notes`.
    """

    samples: Samples = field(repr=False)
    rate: int
    duration: Fraction
    mean: float
    variance: float
    voice: VoiceSegments
    track: Samples | None = field(repr=False)
    track_rate: int
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of samples at `rate`: round(duration x rate), at least 1."""
        return self.samples.count

    def read(self, start: int = 0, stop: int | None = None) -> Float32:
        """Return mono samples at `rate`.

        Args:
            start: Index of the first sample.
            stop: Index after the last sample; None for the end.

        Returns:
            (stop - start,) float32.

        Raises:
            AudioError: The temporary file that keeps a long recording cannot be read.
        """
        samples: Float32 = self.samples.read(start, self.count if stop is None else stop)[0]
        return samples

    def frame_count(self, fps: Fraction) -> int:
        """Return the number of video frames: ceil(duration x fps), at least 1.

        Args:
            fps: Frames per second.
        """
        return frame_count(self.duration, fps)


def open_recording(
    source: AudioSource,
    rate: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
    *,
    sound_track: bool = True,
    check_length: Callable[[Fraction], object] = lambda seconds: None,
) -> Recording:
    """Decode a recording, check it, measure its level and voice, and keep its samples.

    One or two channels are averaged; more are mixed by speaker positions. If the channels cancel each other, the file
    is decoded again and only the loudest channel is used. The duration is that of the decoded samples, without an
    encoder's delay and padding. Silence is valid speech.

    Memory does not grow with the length: beyond `sample_store.MEMORY_LIMIT`, samples are kept in a temporary file, of
    230 MB an hour for a model at 16 kHz and 1.4 GB an hour for a sound track of 48 kHz stereo. Arrays are not copied
    where they can be used as they are, and must not change while the recording is in use.

    Args:
        source: A sound file, or a video with sound, in a container of `ffmpeg.READERS`; or (samples, rate in Hz) with
            samples (N,) or (channels, N), int16, or floating point of full scale 1.
        rate: Sample rate of the model in Hz; 16000 for the released one.
        progress: Called several times a second with the seconds read so far and an estimate of the total. An exception
            from it ends the reading.
        sound_track: Whether to keep the samples of the sound track of a video.
        check_length: Called with a number of seconds that the recording lasts at least: before it is read, if the file
            declares its length, and several times a second while it is read. An exception from it ends the reading.

    Raises:
        AudioError: The file is missing, unreadable, damaged or without sound, or changes while it is read; there are no
            samples or no channels; a sample is NaN, infinite or beyond `ffmpeg.LOUDEST`; the rate is not a whole number
            of 1000 to 768000; the recording lasts more than `ffmpeg.MAX_SECONDS`; or the temporary file cannot be
            written.
        CancelledError: The work was cancelled (`cancellation.cancellable`).
    """
    checked = check_source(source)
    stamp = FileStamp.of(checked) if isinstance(checked, Path) else None
    reader = _RecordingReader(checked, rate, stamp, progress, sound_track, check_length)
    reader.run(None)
    if (loudest := reader.channel_to_use()) is not None:
        note = f"audio: the channels cancel each other; the mouth follows channel {loudest + 1} of {reader.channels}"
        reader = _RecordingReader(checked, rate, stamp, progress, sound_track, check_length)
        reader.run(loudest)
        reader.info.notes.append(note)
    return reader.recording()


class _RecordingReader:
    """One pass over a recording, which computes the fields of `Recording`."""

    def __init__(
        self,
        source: Path | tuple[Float32, int],
        rate: int,
        stamp: FileStamp | None,
        progress: Callable[[int, int], object],
        sound_track: bool,
        check_length: Callable[[Fraction], object],
    ) -> None:
        self._source, self._rate, self._stamp, self._progress = source, rate, stamp, progress
        self._check_length = check_length
        self.info = SoundInfo()
        self.channels = 0
        self._subject = f"the audio {source}" if isinstance(source, Path) else "the audio"
        self._weights = np.empty(0)
        self._cancellation: CancellationDetector | None = None
        self._samples: Samples = SampleStore(1, self._subject)
        self._keeps_track = sound_track
        self._track: Samples | None = None
        self._track_weights: Weights | None = None

    def run(self, channel: int | None) -> None:
        """Read the whole recording; `channel` is the only channel to use, or None to mix all."""
        self._count, self._source_rate, self._channel = 0, self._rate, channel
        self._moments, self._voice = _Moments(), VoiceDetector(self._rate)
        self._held = np.empty(0, np.float32)
        for samples in _resampled(self._mono(), self._rate):
            self._measure(self._held)
            self._held = samples

    def _measure(self, samples: Float32) -> None:
        """Measure and keep the next samples, which have the rate of the model."""
        self._moments.add(samples)
        self._voice.add(samples)
        if isinstance(self._samples, SampleStore):
            self._samples.append(samples[None])

    def _mono(self) -> Iterator[tuple[Float32, int]]:
        """Yield (mono samples (n,), their rate in Hz), and store the sound track."""
        reported = time.monotonic()
        for block, rate in sound_blocks(self._source, self._stamp, self.info):
            check_cancelled()
            if not self.channels:
                if self.info.declared is not None:
                    self._check_length(self.info.declared)
                self._begin(len(block), rate)
            mono = mix(block, self._weights)
            if self._cancellation is not None:
                self._cancellation.add(block)
            if isinstance(self._track, SampleStore):
                self._track.append(block if self._track_weights is None else mix(block, self._track_weights))
            self._count, self._source_rate = self._count + len(mono), rate
            if time.monotonic() - reported > _PROGRESS_SECONDS:
                reported, done = time.monotonic(), self._count // rate
                self._check_length(Fraction(self._count, rate))
                self._progress(done, max(done + 1, math.ceil(self.info.seconds or self._length(rate))))
            yield mono, rate

    def _length(self, rate: int) -> Fraction:
        """Return the seconds of samples in memory; 0 for a file."""
        return Fraction(0 if isinstance(self._source, Path) else self._source[0].shape[-1], rate)

    def _begin(self, channels: int, rate: int) -> None:
        """Choose weights and storage when channels and rate are known."""
        self.channels, self._weights = channels, mono_weights(self.info.layout, channels)
        self._track_weights = track_weights(self.info.layout, channels)
        if self._channel is not None:
            self._weights = np.eye(channels)[self._channel]
        elif channels > 1:
            self._cancellation = CancellationDetector(self._weights, rate)
        array = None if isinstance(self._source, Path) else SampleArray(np.atleast_2d(self._source[0]))
        if array is not None and channels == 1 and rate == self._rate:
            self._samples = array
        if not self._keeps_track:
            return
        if array is not None and self._track_weights is None:
            self._track = array
        else:
            outputs = channels if self._track_weights is None else len(self._track_weights)
            self._track = SampleStore(outputs, self._subject)

    def channel_to_use(self) -> int | None:
        """Return the only channel to use if the channels cancel each other in the mix; None otherwise."""
        return None if self._cancellation is None else self._cancellation.loudest()

    def recording(self) -> Recording:
        """Return the recording; called once, after `run`."""
        duration = Fraction(self._count, self._source_rate)
        length = max(1, round(duration * self._rate))
        self._measure(self._held[: length - self._moments.count])  # only the last piece can exceed the length
        assert self._samples.count == self._moments.count == length
        for kept in (self._samples, self._track):
            if isinstance(kept, SampleStore):
                kept.flush()
        return Recording(
            samples=self._samples,
            rate=self._rate,
            duration=duration,
            mean=self._moments.mean,
            variance=self._moments.variance,
            voice=self._voice.finish(),
            track=self._track,
            track_rate=self._source_rate,
            notes=tuple(self.info.notes),
        )


class _Moments:
    """Mean and variance of samples that come in pieces, in float64.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979,
    equation 2.1: the sum of squared deviations of two pieces together, from those of each.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._deviations = 0.0

    @property
    def variance(self) -> float:
        return self._deviations / self.count

    def add(self, samples: Float32) -> None:
        if not len(samples):
            return
        wide = samples.astype(np.float64)
        mean, count = float(wide.mean()), self.count + len(wide)
        difference = mean - self.mean
        self._deviations += float(np.square(wide - mean).sum()) + difference**2 * self.count * len(wide) / count
        self.mean += difference * len(wide) / count
        self.count = count


def _resampled(blocks: Iterator[tuple[Float32, int]], rate: int) -> Iterator[Float32]:
    """Resample blocks of (mono samples (n,), their rate in Hz) to `rate` Hz."""
    resampler: Resampler | None = None
    for mono, source_rate in blocks:
        if source_rate != rate and resampler is None:
            resampler = Resampler(source_rate, rate)
        yield mono if resampler is None else resampler.push(mono)
    if resampler is not None:
        yield resampler.finish()
