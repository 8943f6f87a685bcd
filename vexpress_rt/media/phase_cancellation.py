"""Detection of channels that cancel each other in a mix, as left and right do if one of them is inverted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK_SECONDS = 0.064  # every second block is measured
VOICE_BAND = (150.0, 3400.0)  # Hz; excludes offset, rumble and mains hum, which inverted channels can have in common
CANCELLED = 0.1  # share of the power of unrelated channels below which the channels of a block cancel each other
FAINT = 1e-3  # share of the loudest block's power below which a block is a pause
MOST_CANCELLED = 0.2  # share of a recording's power in cancelled blocks above which the mix is not used


class CancellationDetector:
    """A detector of recordings whose channels cancel each other in a mix.

    The channels of a block cancel each other if the mix has far less power in VOICE_BAND than unrelated channels would
    give. Noise and hum in both channels do not hide a cancellation, and a
    cancellation in only a part of the recording is detected as well.

    Args:
        weights: (channels,) float64, the weight of each channel in the mix.
        rate: Sample rate in Hz.
    """

    def __init__(self, weights: NDArray[np.float64], rate: int) -> None:
        self._weights = weights
        self._size = max(16, round(BLOCK_SECONDS * rate))
        low, high = (round(edge * self._size / rate) for edge in VOICE_BAND)
        self._band = slice(max(1, min(low, self._size // 4)), max(2, min(high, self._size // 2 + 1)))
        self._window = np.hanning(self._size + 1)[:-1]
        self._enough = max(2 * self._size, (1 << 18) // len(weights))  # samples that are measured together
        self._held: list[NDArray[np.float32]] = []
        self._count = 0
        self._mixed: list[NDArray[np.float64]] = []  # power (blocks,) of the mix
        self._powers: list[NDArray[np.float64]] = []  # power (channels, blocks) of the channels

    def add(self, samples: NDArray[np.float32]) -> None:
        """Append samples.

        Args:
            samples: (channels, n) float32; any n.
        """
        self._held.append(samples)
        self._count += samples.shape[1]
        if self._count >= self._enough:
            self._measure_held()

    def _measure_held(self) -> None:
        """Measure every second block of the held samples, and keep the rest."""
        samples, size = np.concatenate(self._held, axis=1), self._size
        blocks = samples.shape[1] // (2 * size)
        self._measure(samples[:, : 2 * blocks * size].reshape(len(samples), blocks, 2 * size)[..., :size])
        rest = samples[:, 2 * blocks * size :].copy()
        self._held, self._count = [rest], rest.shape[1]

    def _measure(self, blocks: NDArray[np.float32]) -> None:
        """Measure (channels, blocks, size) samples."""
        spectra = np.fft.rfft(blocks * self._window, axis=-1)[..., self._band]
        self._powers.append(np.square(np.abs(spectra)).sum(axis=-1))
        self._mixed.append(np.square(np.abs(np.einsum("c,cbf->bf", self._weights, spectra))).sum(axis=-1))

    def loudest(self) -> int | None:
        """Return the loudest channel if channels cancel each other, else None. Nothing can be added afterwards."""
        self._measure_held()
        rest, size = self._held[0], self._size
        if rest.shape[1] >= size or not any(part.size for part in self._mixed):
            self._measure(np.pad(rest, ((0, 0), (0, max(0, size - rest.shape[1]))))[:, None, :size])
        mixed, powers = np.concatenate(self._mixed), np.concatenate(self._powers, axis=1)
        apart = np.square(self._weights) @ powers  # power of the mix if the channels were unrelated
        if not apart.any():  # only channels without a weight have sound
            return int(np.argmax(powers.sum(axis=1))) if powers.any() else None
        cancelled = (apart > FAINT * apart.max()) & (mixed < CANCELLED * apart)
        if apart[cancelled].sum() <= MOST_CANCELLED * apart.sum():
            return None
        return int(np.argmax(powers[:, cancelled].sum(axis=1)))
