"""The sound of a live session: what belongs to each frame, what the model hears around it, and how loud that counts.

Time is counted in frames; frame k has the samples from `boundary(k)` to `boundary(k + 1)`, so that nothing can drift.
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

LEVEL_SECONDS = 10  # over which loudness is measured
BLOCKS = 50  # a second: pieces that are sound or pause
QUIET = 10 ** (-50 / 20)  # standard deviation below which a piece is a pause: 50 dB under full scale
USUAL = 0.1  # standard deviation of speech as it usually is: 20 dB under full scale
USUAL_BLOCKS = BLOCKS  # the usual counts until a second of the voice was heard


def boundary(frame: int, rate: int, fps: Fraction) -> int:
    """The first sample of a frame: floor(frame x rate / fps), exactly."""
    return frame * rate * fps.denominator // fps.numerator


def normalize_live(samples: Float32, heard: Float32, rate: int) -> Float32:
    """`audio_features.normalize`, for sound of which the end is not known: (n,) samples -> (n,) float32.

    heard: (m,), the last LEVEL_SECONDS of sound, from which mean and variance are taken. Pauses in it do not count, so
    that neither they nor a long silence before make a voice louder; for what a second of voice lacks, speech of USUAL
    loudness counts, so that a first syllable is not blown up to full strength. Silence stays silence.
    """
    block = max(1, rate // BLOCKS)
    blocks = heard[len(heard) % block :].reshape(-1, block).astype(np.float64)
    voiced = blocks[blocks.std(axis=1) > QUIET]
    lacking = max(0, USUAL_BLOCKS - len(voiced))
    count = len(voiced) + lacking
    mean = voiced.mean(axis=1).sum() / count
    variance = (np.square(voiced - mean).mean(axis=1).sum() + lacking * USUAL**2) / count
    scaled: Float32 = ((samples - mean) / np.sqrt(variance + 1e-7)).astype(np.float32)
    return scaled


class Recent(NamedTuple):
    """Recent samples for voice activity detection. Indices count from the start of the session.

    Attributes:
        samples: (r,) float32 from index `begin` to the last known sample.
        begin: Index of the first sample.
        first: Index of the first sample of the model's input for a window.
        last: Index after the last one.
    """

    samples: Float32
    begin: int
    first: int
    last: int


def voice_gains(recent: Recent, rate: int) -> tuple[Float32, Float32]:
    """Return `voice.voice_gain` for both parts that `SessionAudio.around` returns for the same window.

    The rule is that of recordings; samples that are unknown so far have gain 0.
    """
    voice, known = find_voice(recent.samples, rate, recent.begin), recent.begin + len(recent.samples)
    heard = voice_gain(voice, rate, recent.first, recent.last)
    return heard, voice_gain(voice, rate, known - LEVEL_SECONDS * rate, known)


class SampleBuffer:
    """Samples from some moment on, of which the oldest are forgotten. Outside of what is kept it is silent.

    They lie in a buffer of at most four times their size, and are moved to another only after as many came or went: so
    a sample costs the same however many are kept.

    end: samples since the beginning of time.
    """

    def __init__(self) -> None:
        self._start = 0
        self._samples = self._buffer = np.empty(0, np.float32)  # the first is a part of the second
        self._free = 0  # where in the buffer the samples end

    @property
    def end(self) -> int:
        return self._start + len(self._samples)

    @property
    def kept(self) -> int:
        """How many samples can be read."""
        return len(self._samples)

    def append(self, samples: Float32) -> None:
        """(n,) float32, copied."""
        if self._free + len(samples) > len(self._buffer):
            self._move(len(samples))
        begin, self._free = self._free - self.kept, self._free + len(samples)
        self._buffer[self._free - len(samples) : self._free] = samples
        self._samples = self._buffer[begin : self._free]

    def _move(self, more: int = 0) -> None:
        """To a buffer of twice what is kept and `more` that come."""
        kept, self._buffer = self._samples, np.empty(2 * (self.kept + more), np.float32)
        self._free = len(kept)
        self._samples = self._buffer[: self._free]
        self._samples[:] = kept

    def read(self, start: int, stop: int) -> Float32:
        """Samples start to stop - 1, copied."""
        out = np.zeros(stop - start, np.float32)
        first, last = max(start, self._start), min(stop, self.end)
        if first < last:
            out[first - start : last - start] = self._samples[first - self._start : last - self._start]
        return out

    def end_at(self, position: int) -> None:
        """Forget what comes after `position`, or go on in silence until there."""
        if position <= self.end:
            kept = max(0, position - self._start)
            self._free -= self.kept - kept
            self._samples = self._samples[:kept]
            self._start = min(self._start, position)
            self._shrink()
        else:
            self.append(np.zeros(position - self.end, np.float32))

    def forget(self, position: int) -> None:
        """Keep nothing from before `position`."""
        dropped = min(max(0, position - self._start), len(self._samples))
        self._samples = self._samples[dropped:]
        self._start += dropped
        self._shrink()

    def _shrink(self) -> None:
        if len(self._buffer) > 4 * self.kept:
            self._move()


class SessionAudio:
    """What is said in a session, as it is given back (`rate` Hz) and as the model hears it (`model_rate` Hz).

    before, after: frames of sound that the model hears until the end of a window, and after it.
    ahead: frames after a window that are waited for, at most `after`; what is beyond them is silence.
    Not thread-safe: whoever has it has a lock.
    """

    def __init__(self, rate: int, model_rate: int, fps: Fraction, *, before: int, ahead: int, after: int) -> None:
        self.rate, self.model_rate, self.fps = rate, model_rate, fps
        self._before, self._ahead, self._after = before, ahead, after
        self._said, self._heard = SampleBuffer(), SampleBuffer()
        self._ends: deque[int] = deque()
        self._begin()

    def _begin(self) -> None:
        """What is pushed next does not continue a sound before it."""
        self._incoming: Resampler | None = None
        self._hearing = None if self.rate == self.model_rate else Resampler(self.rate, self.model_rate)

    @property
    def seconds(self) -> Fraction:
        """How long all that was said is."""
        return Fraction(self._said.end, self.rate)

    @property
    def kept(self) -> int:
        """Samples that are kept."""
        return self._said.kept + self._heard.kept

    def push(self, samples: Float32, rate: int) -> None:
        """(n,) float32, the next that is said, at `rate` Hz, which may change from call to call."""
        if self._incoming is not None and rate != self._incoming.source:
            self._append(self._incoming.finish())
            self._incoming = None
        if rate != self.rate and self._incoming is None and samples.size:
            self._incoming = Resampler(rate, self.rate)
        self._append(samples if self._incoming is None else self._incoming.push(samples))

    def _append(self, samples: Float32) -> None:
        self._said.append(samples)
        self._heard.append(samples if self._hearing is None else self._hearing.push(samples))

    def finish(self, frame: int = 0) -> None:
        """The speech ends: there is silence to the end of its last frame, and on to the beginning of `frame`."""
        if self._incoming is not None:
            self._append(self._incoming.finish())
        if self._hearing is not None and self._hearing.received:
            self._heard.append(self._hearing.finish())
        end = max(math.ceil(self.seconds * self.fps), frame)
        self._said.end_at(boundary(end, self.rate, self.fps))
        self._heard.end_at(boundary(end, self.model_rate, self.fps))
        self._begin()
        if end > (self._ends[-1] if self._ends else 0):
            self._ends.append(end)

    def interrupt(self, frame: int) -> None:
        """Drop all that is said from `frame` on."""
        self._said.end_at(boundary(frame, self.rate, self.fps))
        self._heard.end_at(boundary(frame, self.model_rate, self.fps))
        self._begin()
        self._ends.clear()

    def frames_of(self, first: int, stop: int) -> int:
        """How many of the frames first to stop - 1 can be made: all, those before an end of speech, or none yet."""
        if (end := self._end_after(first)) is not None:
            return min(stop, end) - first
        said = self._said.end >= boundary(stop, self.rate, self.fps)
        heard = self._heard.end >= boundary(stop + self._ahead, self.model_rate, self.fps)
        return stop - first if said and heard else 0

    def ends_with(self, frame: int) -> bool:
        """Whether speech was said to end where `frame` begins."""
        return frame in self._ends

    def _end_after(self, frame: int) -> int | None:
        return next((end for end in self._ends if end > frame), None)

    def of_frame(self, frame: int) -> Float32:
        """The samples of a frame, (n,) float32."""
        return self._said.read(boundary(frame, self.rate, self.fps), boundary(frame + 1, self.rate, self.fps))

    def around(self, first: int, stop: int) -> tuple[Float32, Float32]:
        """What the model hears for a window, and what was heard in LEVEL_SECONDS until its end, for `normalize_live`.

        first: the first frame that is new.  stop: the end of the window, in frames.
        The first part is of frames stop - `before` to stop + `after`, the same number of samples in every call.
        """
        begin, last, known = self._reach(first, stop)
        samples = self._heard.read(begin, last)
        samples[max(0, known - begin) :] = 0
        return samples, self._heard.read(known - LEVEL_SECONDS * self.model_rate, known)

    def recent(self, first: int, stop: int) -> Recent:
        """Return the samples that `voice_gains` needs for the window of `around`."""
        begin, last, known = self._reach(first, stop)
        earliest = max(0, min(begin, known - LEVEL_SECONDS * self.model_rate))
        return Recent(self._heard.read(earliest, max(earliest, known)), earliest, begin, last)

    def _reach(self, first: int, stop: int) -> tuple[int, int, int]:
        """Return the first sample of the model's input, the one after its last, and the first unknown one."""
        end = stop + self._ahead
        if (mark := self._end_after(first)) is not None:
            end = min(end, mark)
        last = boundary(stop + self._after, self.model_rate, self.fps)
        length = boundary(self._before + self._after, self.model_rate, self.fps)
        return last - length, last, boundary(end, self.model_rate, self.fps)

    def forget(self, frame: int) -> None:
        """Keep nothing that windows from `frame` on do not need."""
        while self._ends and self._ends[0] <= frame:
            self._ends.popleft()
        self._said.forget(boundary(frame, self.rate, self.fps))
        earliest = boundary(frame - self._before, self.model_rate, self.fps)
        self._heard.forget(min(earliest, boundary(frame, self.model_rate, self.fps) - LEVEL_SECONDS * self.model_rate))
