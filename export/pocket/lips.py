"""Estimate the movement of a mouth from speech: openness from loudness and first formant, shape from the second.

Formants are estimated by linear prediction (J. Makhoul, "Linear prediction: A tutorial review", Proc. IEEE 63(4),
1975).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Track = NDArray[np.float32]

RATE = 16000  # Hz, of the samples
HOP, SPAN = 160, 480  # samples between analysis windows, and in one: 10 and 30 ms
ORDER = 12  # of the linear prediction at 8 kHz: two per kHz, and four for source and lips
REACH = 30.0  # dB below loud speech at which lips are closed
LIPS = 0.07  # seconds, time constant of lips: width of the smoothing window
F1, F2 = (320.0, 780.0), (900.0, 2100.0)  # Hz: from closed to open vowels, from rounded to spread ones


@dataclass(frozen=True)
class MouthTrack:
    """The movement of a mouth.

    Attributes:
        openness: (n,) float32 in [0, 1].
        width: (n,) float32 in [-1, 1], narrow to spread.
        rounding: (n,) float32 in [0, 1].
        rate: Values per second.
    """

    openness: Track
    width: Track
    rounding: Track
    rate: float

    def at(self, count: int, fps: float) -> NDArray[np.float32]:
        """Interpolate at the middle of each frame of a video.

        Args:
            count: Number of frames.
            fps: Frames per second.

        Returns:
            Openness, width and rounding, (count, 3) float32.
        """
        seconds = (np.arange(count) + 0.5) / fps
        moments = np.arange(len(self.openness)) / self.rate
        tracks = (self.openness, self.width, self.rounding)
        return np.stack([np.interp(seconds, moments, track) for track in tracks], axis=1).astype(np.float32)


def mouth_track(samples: Track) -> MouthTrack:
    """Estimate the mouth of the speaker.

    Loudness is relative to that of the recording. Lips are closed in silence and in steady noise.

    Args:
        samples: Mono at 16 kHz, (N,).

    Returns:
        The movement, 100 values per second.
    """
    windows = _windows(samples)
    level = _level(windows)
    first, second = _formants(windows)
    loud = 10 ** (np.clip(level, -REACH, 0) / 40)  # square root of the amplitude: quiet speech opens lips, too
    loud = np.where(level > -REACH, loud, 0)
    open_vowel, spread = _share(first, F1), _share(second, F2)
    openness = loud * (0.7 + 0.3 * open_vowel)
    width = loud * (2 * spread - 1)
    rounding = loud * np.clip(1 - 1.6 * spread, 0, 1) * (1 - open_vowel)
    return MouthTrack(*(_smooth(track) for track in (openness, width, rounding)), rate=RATE / HOP)


def _windows(samples: Track) -> NDArray[np.float64]:
    """Return the analysis windows (n, SPAN), one every 10 ms."""
    padded = np.pad(np.asarray(samples, float), (SPAN // 2, SPAN // 2))
    return np.lib.stride_tricks.sliding_window_view(padded, SPAN)[::HOP]


def _level(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the level in dB relative to loud speech (the 95th percentile), -inf near a steady noise floor."""
    power = np.square(np.diff(windows, axis=1)).mean(axis=1)  # the difference filters out hum and wind
    loud, floor = np.percentile(power, [95, 10])
    if loud <= 1e-9 or loud < 4 * floor:  # no speech: silence, or noise that does not change
        return np.full(len(power), -np.inf)
    return 10 * np.log10(np.maximum(power - 2 * floor, 1e-12) / loud)


def _formants(windows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the first and second formant of each window in Hz, from the roots of its predictor at 8 kHz."""
    halved = windows.reshape(len(windows), -1, 2).mean(axis=2)
    shaped = np.diff(halved, axis=1, prepend=0) * np.hamming(halved.shape[1])
    predictor = _predictor(shaped)
    companion = np.zeros((len(windows), ORDER, ORDER))
    companion[:, 0] = predictor
    companion[:, np.arange(1, ORDER), np.arange(ORDER - 1)] = 1
    roots = np.linalg.eigvals(companion)
    frequency = np.angle(roots) * (RATE / 2) / (2 * np.pi)
    bandwidth = -np.log(np.maximum(np.abs(roots), 1e-9)) * (RATE / 2) / np.pi
    frequency[(frequency < 150) | (bandwidth > 500)] = np.inf
    frequency.sort(axis=1)
    first, second = frequency[:, 0], frequency[:, 1]
    return np.where(np.isfinite(first), first, F1[0]), np.where(np.isfinite(second), second, sum(F2) / 2)


def _predictor(pieces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coefficients of linear prediction (n, ORDER), by Levinson's recursion."""
    length = pieces.shape[1]
    correlation = np.stack([(pieces[:, lag:] * pieces[:, : length - lag]).sum(axis=1) for lag in range(ORDER + 1)])
    error = correlation[0] * 1.0001 + 1e-9
    found = np.zeros((ORDER, len(pieces)))
    for order in range(ORDER):
        reflection = (correlation[order + 1] - (found[:order] * correlation[order:0:-1]).sum(axis=0)) / error
        found[:order] -= reflection * found[:order][::-1].copy()
        found[order] = reflection
        error *= 1 - reflection**2
    return found.T


def _share(values: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    low, high = limits
    return np.clip((values - low) / (high - low), 0, 1)


def _smooth(track: NDArray[np.float64]) -> Track:
    count = round(2 * LIPS * RATE / HOP) | 1
    bell = np.hanning(count + 2)[1:-1]
    padded = np.pad(track, count // 2, mode="edge")
    return np.convolve(padded, bell / bell.sum(), mode="valid").astype(np.float32)
