"""Streaming conversion of the sample rate."""

from __future__ import annotations

import math
from fractions import Fraction

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from vexpress_rt.errors import AudioError
from vexpress_rt.types import Float32

FILTER = 64  # samples of the lower rate: twice the length of libswresample's filter


class Resampler:
    """A resampler of mono sound, by libswresample.

    The result does not depend on the sizes of the pieces. It lags about a millisecond behind until `finish`.

    Args:
        source: Sample rate of the input in Hz.
        rate: Sample rate of the output in Hz.

    Attributes:
        received: Samples of input so far.
        given: Samples of output so far.
    """

    def __init__(self, source: int, rate: int) -> None:
        self.source = source
        self.rate = rate
        self.received = self.given = 0
        self._last = np.zeros(1, np.float32)
        self._filter = AudioResampler(format="fltp", layout="mono", rate=rate)

    def push(self, samples: Float32) -> Float32:
        """Resample the next samples.

        Args:
            samples: (n,) float32 at the input rate; n may be 0.

        Returns:
            (m,) float32 at the output rate, as far as they are ready; m may be 0.

        Raises:
            AudioError: libswresample fails.
        """
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
                "nearer to each other: resample it before"
            ) from error
        made: Float32 = np.concatenate([np.empty(0, np.float32), *pieces])
        self.received += samples.size
        self.given += made.size
        return made

    def finish(self) -> Float32:
        """Return the remaining samples. Nothing can be pushed afterwards.

        The last sample is repeated to push the rest through the filter, because flushing libswresample returns nothing
        for sound shorter than the filter.

        Returns:
            (m,) float32, so that all output has round(received x rate / source) samples, at least one.

        Raises:
            AudioError: libswresample fails.
        """
        length = max(1, round(Fraction(self.received * self.rate, self.source))) - self.given
        held = self.push(np.repeat(self._last, FILTER * math.ceil(max(1, self.source / self.rate))))
        assert len(held) >= length
        return held[:length]
