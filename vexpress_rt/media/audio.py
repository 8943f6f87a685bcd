"""Speech: recordings -> samples as the model hears them; audio features -> the rows that each frame listens to."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.config import brief, plain_number
from vexpress_rt.errors import AudioError, ConfigError
from vexpress_rt.media.audio_reader import SoundInfo, sound_blocks
from vexpress_rt.media.cancellation import CancellationDetector
from vexpress_rt.media.channel_mix import mono_weights
from vexpress_rt.media.ffmpeg import LOUDEST, MAX_CHANNELS, MAX_RATE, MAX_SECONDS, MIN_RATE
from vexpress_rt.media.resampler import Resampler
from vexpress_rt.media.voice_activity import VoiceDetector
from vexpress_rt.types import FileStamp, Float32, Recording, Waveform
from vexpress_rt.utils.memory_budget import Need, check_memory, free_memory
from vexpress_rt.utils.paths import as_path

TELL_SECONDS = 0.1  # between two calls of `progress`
_CHECKED = 1 << 22  # samples per check
_LARGE = 1 << 26  # bytes; larger copies are compared with the free memory first


def load_audio(source: str | os.PathLike[str] | tuple[NDArray[Any], int], rate: int) -> Waveform:
    """A recording as the model hears it: mono, `rate` Hz, float32.

    source: a sound file, or a video whose sound is taken, in any container of `media.READERS`; or (samples, rate in Hz)
        with samples (N,) or (channels, N), floating point of full scale 1, or int16, which is divided by 32768.
    rate: Hz of the model, 16000 for the released one.

    One or two channels are averaged; more are mixed by speaker positions. If the channels cancel each other, the
    loudest is used alone. The duration is that of the decoded samples (an encoder's delay and padding do not count),
    and the result has round(duration x rate) samples, at least one. Silence is as good as any sound.
    `Waveform.source` keeps the recording for the sound track: the path, or float32 samples of all channels, the
    caller's own where they are such.

    Raises AudioError when the file is missing, unreadable or has no sound, when there are no samples or no channels,
    when samples are NaN, infinite or beyond `media.LOUDEST`, when the rate is not a whole number in 1000..768000, and
    beyond `media.MAX_SECONDS`.
    """
    recording = open_recording(source, rate)
    data = bytearray()  # grows in place: half the memory of joining pieces
    for samples in sound(recording):
        data += samples.tobytes()
    return Waveform(np.frombuffer(data, np.float32), rate, recording.duration, recording.source, recording.stamp)


def open_recording(
    source: str | os.PathLike[str] | tuple[NDArray[Any], int],
    rate: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Recording:
    """Read a recording once to find its length, level, voice and faults, without keeping samples.

    An array must not change while the recording is in use. A file that changes later is detected when it is read again.

    Args:
        source: As in `load_audio`.
        rate: As in `load_audio`.
        progress: Called several times a second with the seconds read so far and an estimate of the total. An exception
            that it raises ends the reading.

    Raises:
        AudioError: As in `load_audio`.
    """
    kept = _check_source(source)
    stamp = FileStamp.of(kept) if isinstance(kept, Path) else None
    reading = _Reading(kept, rate, stamp, progress)
    reading.run(None)
    if (loudest := reading.loudest_alone()) is not None:
        note = f"audio: the channels cancel each other; the mouth follows channel {loudest + 1} of {reading.channels}"
        reading = _Reading(kept, rate, stamp, progress)
        reading.run(loudest)
        reading.info.notes.append(note)
    return reading.recording()


class _Reading:
    """One pass over a recording, which computes the fields of `Recording`."""

    def __init__(
        self,
        source: Path | tuple[Float32, int],
        rate: int,
        stamp: FileStamp | None,
        progress: Callable[[int, int], object],
    ) -> None:
        self._source, self._rate, self._stamp, self._progress = source, rate, stamp, progress
        self.info = SoundInfo()
        self.channels = 0
        self._weights = np.empty(0)
        self._cancellation: CancellationDetector | None = None

    def run(self, channel: int | None) -> None:
        """Read the whole recording. channel: the channel to use alone, or None to mix all."""
        self._count, self._source_rate, self._channel = 0, self._rate, channel
        self._moments, self._voice = _Moments(), VoiceDetector(self._rate)
        self._held = np.empty(0, np.float32)
        for samples in _resampled(self._mono(), self._rate):
            self._hear(self._held)
            self._held = samples

    def _hear(self, samples: Float32) -> None:
        self._moments.add(samples)
        self._voice.add(samples)

    def _mono(self) -> Iterator[tuple[Float32, int]]:
        reported = time.monotonic()
        for block, rate in sound_blocks(self._source, self._stamp, self.info):
            if not self.channels:
                self._begin(len(block), rate)
            mono = mix(block, self._weights)
            if self._cancellation is not None:
                self._cancellation.add(block)
            self._count, self._source_rate = self._count + len(mono), rate
            if time.monotonic() - reported > TELL_SECONDS:
                reported, done = time.monotonic(), self._count // rate
                self._progress(done, max(done + 1, math.ceil(self.info.seconds or self._length(rate))))
            yield mono, rate

    def _length(self, rate: int) -> Fraction:
        """Return the seconds of samples in memory; 0 for a file."""
        return Fraction(0 if isinstance(self._source, Path) else self._source[0].shape[-1], rate)

    def _begin(self, channels: int, rate: int) -> None:
        self.channels, self._weights = channels, mono_weights(self.info.layout, channels)
        if self._channel is not None:
            self._weights = np.eye(channels)[self._channel]
        elif channels > 1:
            self._cancellation = CancellationDetector(self._weights, rate)

    def loudest_alone(self) -> int | None:
        """Return the channel to use alone if the channels cancel each other in the mix; else None."""
        return None if self._cancellation is None else self._cancellation.loudest()

    def recording(self) -> Recording:
        """Return the recording."""
        duration = Fraction(self._count, self._source_rate)
        length = max(1, round(duration * self._rate))
        self._hear(self._held[: length - self._moments.count])  # only the last piece can exceed the length
        assert self._moments.count == length
        return Recording(
            source=self._source,
            rate=self._rate,
            count=length,
            duration=duration,
            mean=self._moments.mean,
            variance=self._moments.variance,
            voice=self._voice.finish(),
            stamp=self._stamp,
            weights=tuple(self._weights.tolist()),
            notes=tuple(self.info.notes),
        )


def sound(recording: Recording) -> Generator[Float32, None, None]:
    """The samples of a recording, (n,) float32 pieces of `recording.count` together.

    Raises AudioError when it cannot be read again, was changed, or is shorter than it was.
    """
    left = recording.count
    weights = np.array(recording.weights)
    blocks = sound_blocks(recording.source, recording.stamp)
    for samples in _resampled(((mix(block, weights), rate) for block, rate in blocks), recording.rate):
        piece = samples[:left]
        left -= len(piece)
        if len(piece):
            yield piece
    if left:
        raise AudioError(
            f"the audio {recording.source} had {recording.count} samples at {recording.rate} Hz and now ends {left} "
            "before: leave the file as it is until the video is made"
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
        apart = mean - self.mean
        self._deviations += float(np.square(wide - mean).sum()) + apart**2 * self.count * len(wide) / count
        self.mean += apart * len(wide) / count
        self.count = count


def normalize(samples: Float32, recording: Recording | None = None) -> Float32:
    """(N,) samples shifted to zero mean and scaled to unit variance over the whole clip: (x - mean) / sqrt(var + 1e-7).

    recording: what the samples are a part of; None if they are all of it.
    spec/model.md, stage 3. Sums are taken in float64. Constant sound gives zeros.
    """
    wide = samples.astype(np.float64)
    mean, variance = (wide.mean(), wide.var()) if recording is None else (recording.mean, recording.variance)
    scaled: Float32 = ((wide - mean) / np.sqrt(variance + 1e-7)).astype(np.float32)
    return scaled


def feature_rows(features: Float32, length: int, rows: int) -> Float32:
    """(length, rows, A) float32: the audio features that each of a video's `length` frames takes; see `frame_rows`."""
    return frame_rows(features, length, rows, 0, length)


def frame_rows(
    features: Float32, length: int, rows: int, start: int, stop: int, *, first: int = 0, total: int | None = None
) -> Float32:
    """The audio features of frames [start, stop) of a video of `length` frames: (stop - start, rows, A) float32.

    features: (T, A) float32, T >= 1 steps of the audio encoder over the whole clip; or some of `total`, beginning with
        `first`, those of `feature_span` among them.
    rows: even; 10 for the released model.

    The features are interpolated in time to 2 * length rows (linear, half-pixel centres: torch's align_corners=False),
    rows // 2 - 1 zero rows go before and after, and frame f takes rows 2f .. 2f + rows - 1 of that: its own two
    and the neighbours' (spec/model.md, stage 3). Only the rows asked for are computed, so a long clip costs no
    more than its features. Positions are float64: torch's float32 ones are off by 1e-4 of a step after a minute.

    Raises ConfigError for an odd or non-positive `rows`.
    """
    assert features.ndim == 2
    assert len(features) >= 1
    total = len(features) if total is None else total
    index, position = _positions(total, length, rows, start, stop)
    if start == stop:
        return np.empty((0, rows, features.shape[1]), np.float32)
    low = position.astype(np.int64)
    weight = (position - low).astype(np.float32)[:, None]
    high = np.minimum(low + 1, total - 1)
    table = features[low - first] * (1 - weight) + features[high - first] * weight  # (2 * (stop - start) + rows - 2, A)
    table[(index < 0) | (index >= 2 * length)] = 0
    windows = np.lib.stride_tricks.sliding_window_view(table, rows, axis=0)[::2]  # (stop - start, A, rows)
    return np.ascontiguousarray(windows.transpose(0, 2, 1))


def feature_span(total: int, length: int, rows: int, start: int, stop: int) -> range:
    """Which of `total` features frames [start, stop), start < stop, listen to; as `frame_rows` has the rest."""
    _, position = _positions(total, length, rows, start, stop)
    return range(int(position[0]), min(int(position[-1]) + 2, total))


def _positions(
    total: int, length: int, rows: int, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The rows of frames [start, stop), by number in the table of 2 * length, and where each lies among the features.

    Those before and after the table are at the nearest feature.
    """
    if rows < 2 or rows % 2:
        raise ConfigError(
            f"{rows} rows of audio features a frame; expected an even number of at least 2: see the bundle"
        )
    assert 0 <= start <= stop <= length
    index = np.arange(2 * start, 2 * stop + rows - 2) - (rows // 2 - 1)
    return index, ((index + 0.5) * (total / (2 * length)) - 0.5).clip(0, total - 1)


def mix(block: Float32, weights: NDArray[np.float64]) -> Float32:
    """Mix samples (channels, n) with weights (channels,) to (n,) float32; sums are in float64."""
    wide: NDArray[np.float64] = weights @ block.astype(np.float64)
    return wide.astype(np.float32)


def _resampled(blocks: Iterator[tuple[Float32, int]], rate: int) -> Iterator[Float32]:
    """Mono samples at `rate` Hz of blocks (mono samples (n,), their rate in Hz)."""
    resampler: Resampler | None = None
    for mono, source_rate in blocks:
        if source_rate != rate and resampler is None:
            resampler = Resampler(source_rate, rate)
        yield mono if resampler is None else resampler.push(mono)
    if resampler is not None:
        yield resampler.finish()


def _check_source(source: str | os.PathLike[str] | tuple[NDArray[Any], int]) -> Path | tuple[Float32, int]:
    if isinstance(source, (str, os.PathLike)):
        return as_path(source, "the audio", AudioError)
    known_duration(source)
    return to_float32(source[0]), check_rate(source[1])


def known_duration(source: object) -> Fraction | None:
    """Return the duration in seconds of samples in memory; None for a file, which must be read for that.

    Raises:
        AudioError: `source` is neither (samples, rate in Hz) nor a path, or its shape or rate is invalid.
    """
    if isinstance(source, (str, os.PathLike)):
        return None
    if not isinstance(source, tuple) or len(source) != 2:
        raise AudioError(f"audio given as {type(source).__name__}; expected a path, or a tuple (samples, rate in Hz)")
    samples, rate = source[0], check_rate(source[1])
    if not isinstance(samples, np.ndarray) or samples.ndim not in (1, 2):
        found = f"shape {samples.shape}" if isinstance(samples, np.ndarray) else type(samples).__name__
        raise AudioError(f"audio samples of {found}; expected a NumPy array (N,) or (channels, N)")
    if samples.size == 0:
        raise AudioError(f"audio samples of shape {samples.shape}; expected at least one channel and one sample")
    if samples.ndim == 2 and len(samples) > min(MAX_CHANNELS, samples.shape[1]):
        raise AudioError(
            f"audio samples of shape {samples.shape}; expected (channels, N) with at most {MAX_CHANNELS} channels, "
            "and no more channels than samples: transpose them"
        )
    if samples.shape[-1] > MAX_SECONDS * rate:
        raise AudioError(
            f"{samples.shape[-1]} audio samples at {rate} Hz; expected at most {MAX_SECONDS / 3600:g} hours: cut them"
        )
    return Fraction(samples.shape[-1], rate)


def check_rate(rate: Any) -> int:
    """The rate in Hz. Raises AudioError unless it is a whole number in 1000..768000."""
    number = plain_number(rate)
    if number is None or not MIN_RATE <= number <= MAX_RATE or number != int(number):
        raise AudioError(
            f"a sample rate of {brief(rate)}; expected whole Hz between {MIN_RATE} and {MAX_RATE}, such as 16000"
        )
    return int(number)


def to_float32(samples: NDArray[Any]) -> Float32:
    """Samples (..., N), int16 or floating point of full scale 1, as float32 of full scale 1.

    Raises AudioError for another dtype, for values that are NaN, infinite, or beyond `media.LOUDEST`, and if there is
    no memory for the copy that another dtype than float32 needs. Of a masked array all values count, so that none which
    is masked for being NaN gets in.
    """
    samples = np.asarray(samples)
    if samples.dtype != np.float32 and 4 * samples.size > _LARGE:
        remedy = "pass float32, which is not copied, or the name of a file"
        needs = [Need(4 * samples.size, "their copy in float32", remedy)]
        check_memory(
            f"converting {samples.size} audio samples of dtype {samples.dtype}", needs, free_memory(), AudioError
        )
    if samples.dtype.newbyteorder("=") == np.int16:
        return samples.astype(np.float32) / np.float32(2**15)
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(
            f"audio samples of dtype {samples.dtype}; expected float32 in [-1, 1] or int16: "
            "divide them by the dtype's full scale"
        )
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused next
        values = samples.astype(np.float32, copy=False)
    peak, bad, first = 0.0, 0, 0
    pieces = np.atleast_2d(values)
    for start in range(0, pieces.shape[-1], _CHECKED // len(pieces)):  # so that looking needs no memory
        piece = pieces[:, start : start + _CHECKED // len(pieces)]
        found = np.flatnonzero(~np.isfinite(piece).all(axis=0))
        if found.size and not bad:
            first = start + int(found[0])
        bad += found.size
        if not found.size:
            peak = max(peak, float(np.abs(piece).max(initial=0)))
    if bad:
        raise AudioError(f"{bad} audio samples are NaN or infinite, the first at {first}: clean them before")
    if peak > LOUDEST:
        raise AudioError(f"audio samples of up to {peak:g}; expected full scale 1: divide them by their full scale")
    return values
