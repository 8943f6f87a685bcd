"""From one sample rate to another, a piece at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from vexpress_rt.errors import AudioError
from vexpress_rt.types import Float32

FILTER = 64  # samples, of the lower rate: twice the length of libswresample's filter


class Resampler:
    """Mono sound on its way from `source` Hz to `rate` Hz, by libswresample. What comes out does not depend on the
    pieces in which it goes in; it lags about a millisecond behind, until `finish`.

    received, given: samples so far, of the one rate and of the other.

    `push` and `finish` raise AudioError where libswresample fails.
    """

    def __init__(self, source: int, rate: int) -> None:
        self.source = source
        self.rate = rate
        self.received = self.given = 0
        self._last = np.zeros(1, np.float32)
        self._filter = AudioResampler(format="fltp", layout="mono", rate=rate)

    def push(self, samples: Float32) -> Float32:
        """(n,) float32 of the one rate -> what is ready of the other, (m,) float32; either may be empty."""
        if samples.size == 0:
            return samples
        self._last = samples[-1:].copy()
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), "fltp", "mono")
        frame.sample_rate, frame.pts = self.source, self.received
        try:
            pieces = [out.to_ndarray()[0] for out in self._filter.resample(frame)]
        except av.FFmpegError as error:
            raise AudioError(
                f"sound of {self.source} Hz cannot be resampled to {self.rate} Hz ({error.strerror}); expected rates "
                "that are nearer: resample it before"
            ) from error
        made: Float32 = np.concatenate([np.empty(0, np.float32), *pieces])
        self.received += samples.size
        self.given += made.size
        return made

    def finish(self) -> Float32:
        """The rest, so that duration is kept: round(received x rate / source) samples in all, at least one.

        The last sample is held past the end of the filter. Flushing would not do: of sound shorter than the filter
        libswresample returns nothing then. Nothing can be pushed afterwards.
        """
        length = max(1, round(Fraction(self.received * self.rate, self.source))) - self.given
        held = self.push(np.repeat(self._last, FILTER * math.ceil(max(1, self.source / self.rate))))
        assert len(held) >= length
        return held[:length]
