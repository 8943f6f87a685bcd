"""The speech of a live session: the samples of each frame, and the normalised model input of each window.

Time is counted in frames: frame k has the samples from `first_sample(k)` to `first_sample(k + 1)`, so that sound and
frames cannot drift apart.
"""

from __future__ import annotations

import math
from collections import deque
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from vexpress_rt.media.resampler import Resampler
from vexpress_rt.media.voice_activity import find_voice, voice_gain
from vexpress_rt.types import Float32

LEVEL_SECONDS = 10  # of recent sound, on which mean and variance are measured
BLOCKS_PER_SECOND = 50  # each block counts as voice or as a pause
PAUSE_LEVEL = 10 ** (-50 / 20)  # standard deviation, 50 dB below full scale; a block below it is a pause
SPEECH_LEVEL = 0.1  # standard deviation of normal speech: 20 dB below full scale
SPEECH_BLOCKS = BLOCKS_PER_SECOND  # one second; with less voice, normal speech is assumed for the rest


def first_sample(frame: int, rate: int, fps: Fraction) -> int:
    """Return the first sample of a frame: floor(frame * rate / fps), exactly.

    Args:
        frame: Number of the frame, from 0.
        rate: Samples per second.
        fps: Frames per second.
    """
    return frame * rate * fps.denominator // fps.numerator


def normalize_live(samples: Float32, recent: Float32, rate: int) -> Float32:
    """Normalise speech that is still arriving; `audio_features.normalize` does this for a whole recording.

    Mean and variance are measured on the recent sound without its pauses, so that neither pauses nor a long silence
    beforehand amplify a voice. If there is less than a second of voice, speech of SPEECH_LEVEL is assumed for the rest
    of that second, so that a first syllable is not amplified to full strength. Silence stays silence.

    Args:
        samples: (n,) float32.
        recent: (m,) float32, the last LEVEL_SECONDS of sound.
        rate: Hz of both.

    Returns:
        (n,) float32.
    """
    block = max(1, rate // BLOCKS_PER_SECOND)
    blocks = recent[len(recent) % block :].reshape(-1, block).astype(np.float64)
    voiced = blocks[blocks.std(axis=1) > PAUSE_LEVEL]
    lacking = max(0, SPEECH_BLOCKS - len(voiced))
    count = len(voiced) + lacking
    mean = voiced.mean(axis=1).sum() / count
    variance = (np.square(voiced - mean).mean(axis=1).sum() + lacking * SPEECH_LEVEL**2) / count
    scaled: Float32 = ((samples - mean) / np.sqrt(variance + 1e-7)).astype(np.float32)
    return scaled


class DetectionInput(NamedTuple):
    """Samples for voice activity detection around a window. Indices count samples from the start of the session.

    Attributes:
        samples: (r,) float32, from index `begin` to the last known sample.
        begin: Index of the first sample.
        first: Index of the first sample of the model's input for the window.
        last: Index after the last sample of that input.
    """

    samples: Float32
    begin: int
    first: int
    last: int


def voice_gains(detection: DetectionInput, rate: int) -> tuple[Float32, Float32]:
    """Return the gains for both arrays that `SessionAudio.model_input` returns for the same window.

    Voice is detected as in recordings; samples that have not arrived have gain 0.
    """
    voice, known = find_voice(detection.samples, rate, detection.begin), detection.begin + len(detection.samples)
    gain = voice_gain(voice, rate, detection.first, detection.last)
    return gain, voice_gain(voice, rate, known - LEVEL_SECONDS * rate, known)


class SampleBuffer:
    """A queue of samples: appended at the end, discarded at the start. Outside of the kept samples, silence is read.

    The buffer is at most four times as large as the kept samples. They move to a new buffer only after about as many
    samples were appended or discarded, so the cost per sample does not depend on how many are kept.
    """

    def __init__(self) -> None:
        self._start = 0
        self._samples = self._buffer = np.empty(0, np.float32)  # `_samples` is a view of a part of `_buffer`
        self._free = 0  # index in the buffer after the last sample

    @property
    def end(self) -> int:
        """Index after the last sample, counted from the first sample ever appended."""
        return self._start + len(self._samples)

    @property
    def kept(self) -> int:
        """Number of samples kept."""
        return len(self._samples)

    def append(self, samples: Float32) -> None:
        """Append a copy of (n,) float32 samples.

        Args:
            samples: (n,) float32.
        """
        if self._free + len(samples) > len(self._buffer):
            self._move(len(samples))
        begin, self._free = self._free - self.kept, self._free + len(samples)
        self._buffer[self._free - len(samples) : self._free] = samples
        self._samples = self._buffer[begin : self._free]

    def _move(self, more: int = 0) -> None:
        """Move to a buffer with room for twice the kept samples and `more` new ones."""
        kept, self._buffer = self._samples, np.empty(2 * (self.kept + more), np.float32)
        self._free = len(kept)
        self._samples = self._buffer[: self._free]
        self._samples[:] = kept

    def read(self, start: int, stop: int) -> Float32:
        """Return a copy of samples [start, stop).

        Args:
            start: Position of the first sample.
            stop: Position after the last one.
        """
        out = np.zeros(stop - start, np.float32)
        first, last = max(start, self._start), min(stop, self.end)
        if first < last:
            out[first - start : last - start] = self._samples[first - self._start : last - self._start]
        return out

    def end_at(self, position: int) -> None:
        """Discard the samples from `position` on, or append silence up to it.

        Args:
            position: The new end, in samples from the start of the session.
        """
        if position <= self.end:
            kept = max(0, position - self._start)
            self._free -= self.kept - kept
            self._samples = self._samples[:kept]
            self._start = min(self._start, position)
            self._shrink()
        else:
            self.append(np.zeros(position - self.end, np.float32))

    def discard_before(self, position: int) -> None:
        """Discard the samples before `position`.

        Args:
            position: In samples from the start of the session.
        """
        dropped = min(max(0, position - self._start), len(self._samples))
        self._samples = self._samples[dropped:]
        self._start += dropped
        self._shrink()

    def _shrink(self) -> None:
        if len(self._buffer) > 4 * self.kept:
            self._move()


class SessionAudio:
    """The speech of a session, at the session's rate for the caller and at the model's rate for the audio encoder.

    Not thread-safe: the owner must hold a lock.

    Attributes:
        rate: Hz of the session.
        model_rate: Hz of the model.
        fps: Frames per second.
    """

    def __init__(self, rate: int, model_rate: int, fps: Fraction, *, before: int, ahead: int, after: int) -> None:
        """Begin with silence.

        Args:
            rate: Hz of the session.
            model_rate: Hz of the model.
            fps: Frames per second.
            before: Frames of sound in the model's input up to the end of a window.
            ahead: Frames of sound after a window that must have arrived before it is denoised, at most `after`. The
                model's input is silent beyond them.
            after: Frames of sound in the model's input after a window.
        """
        self.rate, self.model_rate, self.fps = rate, model_rate, fps
        self._before, self._ahead, self._after = before, ahead, after
        self._session, self._model = SampleBuffer(), SampleBuffer()
        self._ends: deque[int] = deque()  # frames at which speech ended
        self._start_resampling()

    def _start_resampling(self) -> None:
        """Start new resamplers, without a history of earlier samples."""
        self._to_session: Resampler | None = None
        self._to_model = None if self.rate == self.model_rate else Resampler(self.rate, self.model_rate)

    @property
    def seconds(self) -> Fraction:
        """Seconds of speech since the session began, exactly."""
        return Fraction(self._session.end, self.rate)

    @property
    def kept(self) -> int:
        """Number of samples kept, at both rates."""
        return self._session.kept + self._model.kept

    def push(self, samples: Float32, rate: int) -> None:
        """Append samples (n,) float32 at `rate` Hz; the rate may change from call to call.

        Args:
            samples: (n,) float32, full scale 1.
            rate: Their rate in Hz.
        """
        if self._to_session is not None and rate != self._to_session.source:
            self._append(self._to_session.finish())
            self._to_session = None
        if rate != self.rate and self._to_session is None and samples.size:
            self._to_session = Resampler(rate, self.rate)
        self._append(samples if self._to_session is None else self._to_session.push(samples))

    def _append(self, samples: Float32) -> None:
        self._session.append(samples)
        self._model.append(samples if self._to_model is None else self._to_model.push(samples))

    def finish(self, frame: int = 0) -> None:
        """End the speech, and append silence up to the end of its last frame and to the beginning of `frame`.

        Args:
            frame: The silence reaches at least the beginning of this frame.
        """
        if self._to_session is not None:
            self._append(self._to_session.finish())
        if self._to_model is not None and self._to_model.received:
            self._model.append(self._to_model.finish())
        end = max(math.ceil(self.seconds * self.fps), frame)
        self._session.end_at(first_sample(end, self.rate, self.fps))
        self._model.end_at(first_sample(end, self.model_rate, self.fps))
        self._start_resampling()
        if end > (self._ends[-1] if self._ends else 0):
            self._ends.append(end)

    def interrupt(self, frame: int) -> None:
        """Discard the speech from `frame` on.

        Args:
            frame: The first frame that is discarded.
        """
        self._session.end_at(first_sample(frame, self.rate, self.fps))
        self._model.end_at(first_sample(frame, self.model_rate, self.fps))
        self._start_resampling()
        self._ends.clear()

    def ready_frames(self, first: int, stop: int) -> int:
        """Return how many of frames [first, stop) can be denoised: all, those up to an end of speech, or none yet.

        Args:
            first: The first frame of a window.
            stop: The frame after its last one.
        """
        if (end := self._end_after(first)) is not None:
            return min(stop, end) - first
        pushed = self._session.end >= first_sample(stop, self.rate, self.fps)
        known = self._model.end >= first_sample(stop + self._ahead, self.model_rate, self.fps)
        return stop - first if pushed and known else 0

    def ready_before(self, new: int) -> int:
        """Return the frame before which every frame can be made, wherever windows begin.

        Each of these frames lies before an end of speech, or a window of `new` frames that begins after it is ready.

        Args:
            new: New frames of a window.
        """
        rates = ((self._session, self.rate), (self._model, self.model_rate))
        known = min(math.floor(Fraction(buffer.end, rate) * self.fps) for buffer, rate in rates)
        return max(self._ends[-1] if self._ends else 0, known - self._ahead - new)

    def ends_at(self, frame: int) -> bool:
        """Return whether speech ended where `frame` begins.

        Args:
            frame: Number of the frame.
        """
        return frame in self._ends

    def _end_after(self, frame: int) -> int | None:
        return next((end for end in self._ends if end > frame), None)

    def frame_samples(self, frame: int) -> Float32:
        """Return the samples of a frame, (n,) float32 at the session's rate.

        Args:
            frame: Number of the frame.
        """
        start, stop = (first_sample(number, self.rate, self.fps) for number in (frame, frame + 1))
        return self._session.read(start, stop)

    def model_input(self, first: int, stop: int) -> tuple[Float32, Float32]:
        """Return the model's input for a window, and the recent sound for `normalize_live`.

        Args:
            first: First new frame of the window.
            stop: Frame after the window.

        Returns:
            The samples of the frames from stop - `before` to stop + `after`, the same number in every call; and the
            last LEVEL_SECONDS of known samples. Both float32 at the model's rate.
        """
        begin, last, known = self._span(first, stop)
        samples = self._model.read(begin, last)
        samples[max(0, known - begin) :] = 0
        return samples, self._model.read(known - LEVEL_SECONDS * self.model_rate, known)

    def detection_input(self, first: int, stop: int) -> DetectionInput:
        """Return the samples for `voice_gains`, for the same window as `model_input`."""
        begin, last, known = self._span(first, stop)
        earliest = max(0, min(begin, known - LEVEL_SECONDS * self.model_rate))
        return DetectionInput(self._model.read(earliest, max(earliest, known)), earliest, begin, last)

    def _span(self, first: int, stop: int) -> tuple[int, int, int]:
        """Return the first sample of the model's input, the sample after its last, and the first unknown sample."""
        end = stop + self._ahead
        if (speech_end := self._end_after(first)) is not None:
            end = min(end, speech_end)
        last = first_sample(stop + self._after, self.model_rate, self.fps)
        length = first_sample(self._before + self._after, self.model_rate, self.fps)
        return last - length, last, first_sample(end, self.model_rate, self.fps)

    def discard_before(self, frame: int) -> None:
        """Discard the sound that no window from `frame` on needs.

        Args:
            frame: The first frame of the next window.
        """
        while self._ends and self._ends[0] <= frame:
            self._ends.popleft()
        self._session.discard_before(first_sample(frame, self.rate, self.fps))
        earliest = first_sample(frame - self._before, self.model_rate, self.fps)
        recent = first_sample(frame, self.model_rate, self.fps) - LEVEL_SECONDS * self.model_rate
        self._model.discard_before(min(earliest, recent))
