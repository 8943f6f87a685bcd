"""Where in a recording somebody speaks, so that noise between is heard as silence.

A clip's level is normalised before the audio encoder hears it, and the encoder's own first layers do so again: noise in
which nobody speaks becomes as loud as speech, however quiet it is, and opens the mouth. What counts as voice is judged
from blocks of 64 ms between 150 Hz, which leaves out rumble, offsets and most of mains hum, and 3400 Hz, the upper edge
of telephone speech (ITU-T G.712):

* Below FLOOR nothing is voice: 40 dB under the nominal level of speech, -26 dB of full scale (ITU-T P.830).
* Between FLOOR and LOUD voice is what changes its colour. The spectrum of speech moves with the articulators, at 2 to
  8 Hz (H. Dudley, "The carrier nature of speech", 1940; Houtgast and Steeneken, JASA 77(3), 1985). The spectrum of
  white, pink or brown noise, of hum and of fans stays, also where its level changes. Long-term variability is what
  tells speech from stationary noise best, at any level (Ghosh, Tsiartas, Narayanan, "Robust voice activity detection
  using long-term signal variability", IEEE TASLP 19(3), 2011). Measured here: the standard deviation over half a second
  of each of 8 bands' share in dB, averaged over the bands. Stationary noise of any colour gives 1.0 to 1.4 dB, because
  a block is short; speech gives 4 to 7 dB, whispered or not, and still 2 to 3 dB in noise that is as loud.
* Above LOUD all sound counts, as in the public implementation: held notes and vowels, music, tones.

A block is judged by those around it and nothing else. So the answer does not depend on the clip's length, nor on how
its samples were cut into pieces, and a live session, which does not know the end, judges the past alike.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.records import Float32, Stretches

BLOCK_SECONDS = 0.064
HOPS = 4  # blocks begin a quarter of their length apart
BAND, BANDS = (150.0, 3400.0), 8  # Hz
FLOOR, LOUD = -66.0, -30.0  # dB of full scale, in the band
VARIATION = 1.8  # dB: a quarter of an hour of each noise stays below 1.4; speech in noise that is as loud is above
WINDOW_SECONDS = 0.25  # to each side of a block: a syllable
LEAST = 6  # blocks that sound, or are loud, of a window; a click is in fewer
# Before and after voice, that are left as they are: for onsets, which half a window covers already, and ends that fade.
HOLD_SECONDS = (0.05, 0.2)
FADE_SECONDS = 0.016
_WEAKEST = -40.0  # dB under a block's level, and _LOWEST of full scale: a band below is not told from an empty one
_LOWEST = -82.0


class VoiceDetector:
    """Finds the stretches of voice in mono samples that come in pieces.

    Args:
        rate: Hz, at least `media.MIN_RATE`.
    """

    def __init__(self, rate: int) -> None:
        self.hop = max(1, round(BLOCK_SECONDS * rate / HOPS))
        self._size = HOPS * self.hop
        self._half = round(WINDOW_SECONDS * rate / self.hop)
        self._hold = tuple(round(seconds * rate / self.hop) for seconds in HOLD_SECONDS)
        taper = np.hanning(self._size + 1)[:-1]
        self._taper = taper * np.sqrt(2 / (self._size * np.square(taper).sum()))  # bins are mean squares then
        top = min(BAND[1], rate / 2)
        edges = np.linspace(min(BAND[0], top / 2), top, BANDS + 1) * self._size / rate
        self._edges = np.maximum.accumulate(np.round(edges).astype(int))
        self._rate = rate
        self._count = self._blocks = 0
        self._fresh: list[Float32] = []  # samples that were added, and their number; a second is looked at together
        self._fresh_count = 0
        self._held = np.empty(0, np.float32)  # samples from the next block's first on
        # Of the blocks that are not judged yet, and of as many before as a window holds: columns of `_describe`.
        self._known = np.zeros((self._half, 2 + 2 * BANDS))
        self._voiced: list[NDArray[np.bool_]] = []

    def add(self, samples: Float32) -> None:
        """(n,) float32 that follow those before; any n."""
        self._fresh.append(samples.copy())
        self._fresh_count += len(samples)
        if self._fresh_count >= self._rate:
            self._cut()

    def _cut(self) -> None:
        """Cut blocks of the samples that were added."""
        self._count += self._fresh_count
        held = np.concatenate([self._held, *self._fresh])
        self._fresh, self._fresh_count = [], 0
        blocks = max(0, (len(held) - self._size) // self.hop + 1)
        self._held = held[blocks * self.hop :]
        if blocks:
            self._learn(np.lib.stride_tricks.sliding_window_view(held, self._size)[:: self.hop][:blocks])

    def finish(self) -> Stretches:
        """The stretches [start, stop) of voice, in samples and in order; they neither touch nor overlap.

        Nothing can be added afterwards.
        """
        self._cut()
        if not self._blocks and self._count:  # shorter than a block: repeated, as padding would make it quieter
            self._learn(np.resize(self._held, (1, self._size)))
        self._judge(np.concatenate([self._known, np.zeros((self._half, self._known.shape[1]))]))
        voiced = np.concatenate([np.zeros(0, bool), *self._voiced])
        return tuple(self._stretch(first, last) for first, last in _runs(voiced, self._hold))

    def _stretch(self, first: int, last: int) -> tuple[int, int]:
        """From the beginning of block `first` to the end of `last`; the last of all speaks for what follows it."""
        stop = self._count if last == self._blocks - 1 else last * self.hop + self._size
        return first * self.hop, min(stop, self._count)

    def _learn(self, blocks: NDArray[np.float32]) -> None:
        for some in np.array_split(blocks, len(blocks) // 1024 + 1):  # bounded memory for pieces of any length
            self._blocks += len(some)
            self._known = np.concatenate([self._known, self._describe(some)])
            ready = len(self._known) - 2 * self._half
            if ready > 0:
                self._judge(self._known)
                self._known = self._known[ready:]

    def _describe(self, blocks: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, size) -> (n, 2 + 2 * BANDS): whether a block sounds, whether it is loud, its colour and that squared."""
        bins = np.square(np.abs(np.fft.rfft(blocks * self._taper, axis=1)))
        powers = np.stack([bins[:, low:high].sum(axis=1) for low, high in pairwise(self._edges)], axis=1)
        power = powers.sum(axis=1, keepdims=True)
        least = np.maximum(power * 10 ** (_WEAKEST / 10), 10 ** (_LOWEST / 10))
        colour = 10 * np.log10(np.maximum(powers, least))
        colour -= colour.mean(axis=1, keepdims=True)
        sounding, loud = power > 10 ** (FLOOR / 10), power > 10 ** (LOUD / 10)
        return np.concatenate([sounding, loud, colour * sounding, np.square(colour) * sounding], axis=1)

    def _judge(self, known: NDArray[np.float64]) -> None:
        """Judge the blocks that have a whole window in `known`."""
        count = len(known) - 2 * self._half
        if count <= 0:
            return
        sums = np.zeros((count, known.shape[1]))
        for offset in range(2 * self._half + 1):  # one after the other, so that rounding is the same in any piece
            sums += known[offset : offset + count]
        sounding, loud = sums[:, 0], sums[:, 1]
        mean, square = np.split(sums[:, 2:] / np.maximum(sounding, 1)[:, None], 2, axis=1)
        variation = np.sqrt(np.maximum(square - np.square(mean), 0)).mean(axis=1)
        least = min(LEAST, self._blocks)
        self._voiced.append((loud >= least) | ((sounding >= least) & (variation > VARIATION)))


def find_voice(samples: Float32, rate: int, begin: int = 0) -> Stretches:
    """Find the stretches of voice in (n,) mono samples at `rate` Hz.

    Args:
        begin: number of the first sample; stretches are counted with it. Blocks lie where those of a detector would
            that began with sample 0, so that its answer is the same wherever it knows as much.
    """
    detector = VoiceDetector(rate)
    skipped = min(-begin % detector.hop, len(samples))
    detector.add(samples[skipped:])
    found = [(first + begin + skipped, last + begin + skipped) for first, last in detector.finish()]
    if found and found[0][0] == begin + skipped:
        found[0] = (begin, found[0][1])
    return tuple(found)


def voice_gain(voice: Stretches, rate: int, start: int, stop: int) -> Float32:
    """(stop - start,) float32: 1 in stretches of voice, 0 elsewhere, and FADE_SECONDS between.

    Args:
        voice: stretches, in samples.
        rate: Hz.
        start, stop: the samples asked for.
    """
    fade = max(1, round(FADE_SECONDS * rate))
    rise = np.arange(1, fade + 1, dtype=np.float32) / np.float32(fade + 1)
    gain = np.zeros(stop - start + 2 * fade, np.float32)  # from `start - fade` on
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
    """The runs of voiced blocks, first and last of each, with `hold` more before and after, joined where they touch.

    Blocks HOPS apart lie side by side.
    """
    edges = np.flatnonzero(np.diff(voiced, prepend=False, append=False))
    runs: list[tuple[int, int]] = []
    for first, after in edges.reshape(-1, 2).tolist():
        begin, end = max(0, first - hold[0]), min(len(voiced), after + hold[1]) - 1
        if runs and begin <= runs[-1][1] + HOPS:
            begin = runs.pop()[0]
        runs.append((begin, end))
    return runs
