"""Voice activity detection, for a gate that replaces noise by silence.

A recording's level is normalised before the audio encoder, and the encoder's own first layers normalise it again. So
noise without speech becomes as loud as speech, however quiet it is, and opens the mouth. The detector decides on blocks
of 64 ms, in the band of 150 to 3400 Hz. The lower edge excludes rumble, offsets and most of mains hum; the upper edge
is that of telephone speech (ITU-T G.712).

* Below FLOOR nothing is voice. FLOOR is 40 dB below the nominal level of speech, -26 dB of full scale (ITU-T P.830).
* Between FLOOR and LOUD a block is voice if the spectrum around it changes. The spectrum of speech moves with the
  articulators, at 2 to 8 Hz (H. Dudley, "The carrier nature of speech", 1940; Houtgast and Steeneken, JASA 77(3),
  1985). The spectrum of white, pink or brown noise, hum and fans is constant, even if its level changes. Long-term
  variability separates speech from stationary noise best, at any level (Ghosh, Tsiartas, Narayanan, "Robust voice
  activity detection using long-term signal variability", IEEE TASLP 19(3), 2011). The measure here: for each of 8
  bands, the standard deviation of its level in dB relative to the mean of all bands, over half a second; then the mean
  over the bands. Stationary noise of any colour gives 1.0 to 1.4 dB, because blocks are short. Speech gives 4 to 7 dB,
  whispered or not, and 2 to 3 dB in noise of equal level.
* Above LOUD every sound counts as voice, as in the public implementation: held notes and vowels, music, tones.

A decision depends only on the blocks around it. So it depends neither on the recording's length nor on the sizes of the
pieces that samples come in, and a live session, which does not know the end, reaches the same decisions.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.types import Float32

VoiceSegments = tuple[tuple[int, int], ...]  # (start, stop) in samples, `stop` excluded

BLOCK_SECONDS = 0.064
HOPS = 4  # hops per block: blocks begin a quarter of their length apart
BAND, BANDS = (150.0, 3400.0), 8  # Hz
FLOOR, LOUD = -66.0, -30.0  # dB of full scale, in the band
VARIATION = 1.8  # dB: 15 minutes of each noise stay below 1.4; speech in noise of equal level is above
WINDOW_SECONDS = 0.25  # on each side of a block: about a syllable
MIN_BLOCKS = 6  # above FLOOR, or above LOUD, in a window; a click is in fewer
# Time before and after voice that counts as voice too: for onsets, most of which the window covers, and for decay.
HOLD_SECONDS = (0.05, 0.2)
FADE_SECONDS = 0.016
# A band's level is clamped to these minima, so that empty bands do not vary.
_MIN_RELATIVE = -40.0  # dB, relative to the block's level
_MIN_LEVEL = -82.0  # dB of full scale


class VoiceDetector:
    """A detector of voice in mono samples that arrive in pieces.

    Args:
        rate: Sample rate in Hz, at least `ffmpeg.MIN_RATE`.
    """

    def __init__(self, rate: int) -> None:
        self.hop = max(1, round(BLOCK_SECONDS * rate / HOPS))
        self._size = HOPS * self.hop
        self._half = round(WINDOW_SECONDS * rate / self.hop)
        self._hold = tuple(round(seconds * rate / self.hop) for seconds in HOLD_SECONDS)
        taper = np.hanning(self._size + 1)[:-1]
        self._taper = taper * np.sqrt(2 / (self._size * np.square(taper).sum()))  # makes bins mean squares
        top = min(BAND[1], rate / 2)
        edges = np.linspace(min(BAND[0], top / 2), top, BANDS + 1) * self._size / rate
        self._edges = np.maximum.accumulate(np.round(edges).astype(int))
        self._rate = rate
        self._count = self._blocks = 0
        self._new: list[Float32] = []  # appended samples and their number, processed one second at a time
        self._new_count = 0
        self._held = np.empty(0, np.float32)  # samples from the start of the next block
        # `_block_features` of the undecided blocks, and of the earlier blocks in their windows.
        self._features = np.zeros((self._half, 2 + 2 * BANDS))
        self._voiced: list[NDArray[np.bool_]] = []

    def add(self, samples: Float32) -> None:
        """Append samples.

        Args:
            samples: (n,) float32, full scale 1, that follow the previous ones; any n.
        """
        self._new.append(samples.copy())
        self._new_count += len(samples)
        if self._new_count >= self._rate:
            self._process()

    def _process(self) -> None:
        """Cut blocks of the appended samples."""
        self._count += self._new_count
        held = np.concatenate([self._held, *self._new])
        self._new, self._new_count = [], 0
        blocks = max(0, (len(held) - self._size) // self.hop + 1)
        self._held = held[blocks * self.hop :]
        if blocks:
            self._append(np.lib.stride_tricks.sliding_window_view(held, self._size)[:: self.hop][:blocks])

    def finish(self) -> VoiceSegments:
        """Return the voiced segments. No samples can be added afterwards.

        Returns:
            (start, stop) of each segment in samples, `stop` excluded, in order, disjoint and not adjacent.
        """
        self._process()
        if not self._blocks and self._count:  # shorter than a block: repeated, since padding lowers the level
            self._append(np.resize(self._held, (1, self._size)))
        self._decide(np.concatenate([self._features, np.zeros((self._half, self._features.shape[1]))]))
        voiced = np.concatenate([np.zeros(0, bool), *self._voiced])
        return tuple(self._segment(first, last) for first, last in _runs(voiced, self._hold))

    def _segment(self, first: int, last: int) -> tuple[int, int]:
        """Convert blocks to (start, stop) in samples; the last of all blocks includes the samples after it."""
        stop = self._count if last == self._blocks - 1 else last * self.hop + self._size
        return first * self.hop, min(stop, self._count)

    def _append(self, blocks: NDArray[np.float32]) -> None:
        for some in np.array_split(blocks, len(blocks) // 1024 + 1):  # bounded memory for pieces of any length
            self._blocks += len(some)
            self._features = np.concatenate([self._features, self._block_features(some)])
            ready = len(self._features) - 2 * self._half
            if ready > 0:
                self._decide(self._features)
                self._features = self._features[ready:]

    def _block_features(self, blocks: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return features of blocks (n, size), as (n, 2 + 2 * BANDS).

        Columns: above FLOOR, above LOUD, relative band levels in dB, their squares.
        """
        bins = np.square(np.abs(np.fft.rfft(blocks * self._taper, axis=1)))
        powers = np.stack([bins[:, low:high].sum(axis=1) for low, high in pairwise(self._edges)], axis=1)
        power = powers.sum(axis=1, keepdims=True)
        least = np.maximum(power * 10 ** (_MIN_RELATIVE / 10), 10 ** (_MIN_LEVEL / 10))
        levels = 10 * np.log10(np.maximum(powers, least))
        levels -= levels.mean(axis=1, keepdims=True)
        audible, loud = power > 10 ** (FLOOR / 10), power > 10 ** (LOUD / 10)
        return np.concatenate([audible, loud, levels * audible, np.square(levels) * audible], axis=1)

    def _decide(self, features: NDArray[np.float64]) -> None:
        """Decide on the blocks whose whole window is in `features`."""
        count = len(features) - 2 * self._half
        if count <= 0:
            return
        sums = np.zeros((count, features.shape[1]))
        for offset in range(2 * self._half + 1):  # in this order, so that rounding is the same for pieces of any size
            sums += features[offset : offset + count]
        audible, loud = sums[:, 0], sums[:, 1]
        mean, square = np.split(sums[:, 2:] / np.maximum(audible, 1)[:, None], 2, axis=1)
        variation = np.sqrt(np.maximum(square - np.square(mean), 0)).mean(axis=1)
        least = min(MIN_BLOCKS, self._blocks)
        self._voiced.append((loud >= least) | ((audible >= least) & (variation > VARIATION)))


def find_voice(samples: Float32, rate: int, begin: int = 0) -> VoiceSegments:
    """Detect voice in a part of a recording.

    Args:
        samples: (n,) float32 mono, full scale 1.
        rate: Sample rate in Hz.
        begin: Index of the first sample in the recording. Blocks lie on the grid of a detector that began at sample 0,
            so that decisions are the same wherever all samples of the window are known.

    Returns:
        Segments as in `VoiceDetector.finish`, in indices of the recording.
    """
    detector = VoiceDetector(rate)
    skipped = min(-begin % detector.hop, len(samples))
    detector.add(samples[skipped:])
    found = [(first + begin + skipped, last + begin + skipped) for first, last in detector.finish()]
    if found and found[0][0] == begin + skipped:
        found[0] = (begin, found[0][1])
    return tuple(found)


def voice_gain(voice: VoiceSegments, rate: int, start: int, stop: int) -> Float32:
    """Return the gain of the noise gate.

    Args:
        voice: Voiced segments in samples.
        rate: Sample rate in Hz.
        start: Index of the first sample of the result.
        stop: Index after the last one.

    Returns:
        (stop - start,) float32: 1 in voice, 0 elsewhere, with ramps of FADE_SECONDS outside of each segment.
    """
    fade = max(1, round(FADE_SECONDS * rate))
    rise = np.arange(1, fade + 1, dtype=np.float32) / np.float32(fade + 1)
    gain = np.zeros(stop - start + 2 * fade, np.float32)  # begins at `start - fade`
    for first, last in voice:
        low, high = max(first - start, -fade) + fade, min(last - start, stop - start + fade) + fade
        if low < high:
            gain[low:high] = 1
        for ramp, begin in ((rise, first - start), (rise[::-1], last - start + fade)):
            a, b = max(begin, 0), min(begin + fade, len(gain))
            if a < b:
                gain[a:b] = np.maximum(gain[a:b], ramp[a - begin : b - begin])
    return gain[fade : fade + stop - start]


def _runs(voiced: NDArray[np.bool_], hold: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (first, last) of each run of voiced blocks, extended by `hold` blocks and merged where they touch.

    Blocks that are HOPS apart are adjacent in time.
    """
    edges = np.flatnonzero(np.diff(voiced, prepend=False, append=False))
    runs: list[tuple[int, int]] = []
    for first, after in edges.reshape(-1, 2).tolist():
        begin, end = max(0, first - hold[0]), min(len(voiced), after + hold[1]) - 1
        if runs and begin <= runs[-1][1] + HOPS:
            begin = runs.pop()[0]
        runs.append((begin, end))
    return runs
