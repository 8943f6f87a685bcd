"""How the channels of a recording are mixed to fewer or more, by the speakers that they belong to."""

from __future__ import annotations

from functools import lru_cache

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.filter import Graph
from numpy.typing import NDArray

Weights = NDArray[np.float64]

BLOCK_SECONDS = 0.064  # of which every second one is looked at
VOICE_BAND = (150.0, 3400.0)  # Hz: neither offset, nor rumble, nor most of mains hum, which channels may share
CANCELLED = 0.1  # share of the power of unrelated channels below which a block is of channels that cancel each other
FAINT = 1e-3  # share of the loudest block's power below which a block is a pause
MOST_CANCELLED = 0.2  # share of a recording's power that may lie in such blocks


def mono_weights(layout: str | None, channels: int) -> Weights:
    """The share (channels,) that each channel has in mono.

    layout: FFmpeg's name of the speakers, such as "5.1"; None where nothing is known of them.

    One and two channels, and such as belong to no known speakers, are averaged. Others are mixed as FFmpeg does for
    floating-point samples (ITU-R BS.775): the centre in full, the front at -3 dB, the sides at -6 dB, no LFE. So
    speech, which is in the centre, keeps its level.
    """
    weights = None if layout is None or channels < 3 else _speaker_weights(layout, "mono")
    return np.full(channels, 1 / channels) if weights is None or not weights.any() else weights[0]


def stereo_weights(layout: str | None, channels: int) -> Weights | None:
    """The shares (2, channels) of each channel in left and right; None where the speakers are not known.

    As `mono_weights`, by FFmpeg.
    """
    return None if layout is None or channels < 3 else _speaker_weights(layout, "stereo")


def conversion_weights(layout: str, channels: int, to_layout: str, to_channels: int) -> Weights:
    """The shares (to_channels, channels) with which sound of one layout becomes sound of another."""
    if to_channels > 2 and (weights := _speaker_weights(layout, to_layout)) is not None:
        return weights
    if to_channels == 2 and (weights := stereo_weights(layout, channels)) is not None:
        return weights
    return np.repeat(mono_weights(layout, channels)[None], to_channels, axis=0)


@lru_cache(maxsize=64)
def _speaker_weights(layout: str, to: str) -> Weights | None:
    """What libswresample makes of an impulse in each channel in turn; None if it knows no mix of these layouts."""
    try:
        source = AudioFrame(format="flt", layout=layout, samples=0)
        channels = source.layout.nb_channels
        impulses = AudioFrame.from_ndarray(np.eye(channels, dtype=np.float32).reshape(1, -1), "flt", layout)
        impulses.sample_rate = 48000
        graph = Graph()
        nodes = [
            graph.add("abuffer", f"sample_fmt=flt:channel_layout={layout}:sample_rate=48000:time_base=1/48000"),
            graph.add("aformat", f"sample_fmts=flt:channel_layouts={to}"),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        graph.push(impulses)
        mixed = graph.pull()
        assert isinstance(mixed, AudioFrame)
        return mixed.to_ndarray().reshape(channels, -1).T.astype(np.float64)
    except (av.FFmpegError, ValueError):
        return None


class CancellationDetector:
    """Finds recordings whose channels cancel each other in a mix, as left and right do where one is inverted.

    Each block is judged by its power in VOICE_BAND: channels cancel each other where the mix has far less of it than
    unrelated channels would give. Noise and hum in both channels do not hide it, nor does inversion of a part alone.

    Args:
        weights: (channels,) float64, the share of each channel in the mix.
        rate: Hz.
    """

    def __init__(self, weights: Weights, rate: int) -> None:
        self._weights = weights
        self._size = max(16, round(BLOCK_SECONDS * rate))
        low, high = (round(edge * self._size / rate) for edge in VOICE_BAND)
        self._band = slice(max(1, min(low, self._size // 4)), max(2, min(high, self._size // 2 + 1)))
        self._window = np.hanning(self._size + 1)[:-1]
        self._enough = max(2 * self._size, (1 << 18) // len(weights))  # samples that are looked at together
        self._held: list[NDArray[np.float32]] = []
        self._count = 0
        self._mixed: list[NDArray[np.float64]] = []  # power (blocks,) of the mix
        self._powers: list[NDArray[np.float64]] = []  # power (channels, blocks) of the channels

    def add(self, samples: NDArray[np.float32]) -> None:
        """(channels, n) float32 that follow those before; any n."""
        self._held.append(samples)
        self._count += samples.shape[1]
        if self._count >= self._enough:
            self._look()

    def _look(self) -> None:
        """Measure every second block of what is held, and keep the rest."""
        samples, size = np.concatenate(self._held, axis=1), self._size
        blocks = samples.shape[1] // (2 * size)
        self._measure(samples[:, : 2 * blocks * size].reshape(len(samples), blocks, 2 * size)[..., :size])
        rest = samples[:, 2 * blocks * size :].copy()
        self._held, self._count = [rest], rest.shape[1]

    def _measure(self, blocks: NDArray[np.float32]) -> None:
        """(channels, blocks, size)."""
        spectra = np.fft.rfft(blocks * self._window, axis=-1)[..., self._band]
        self._powers.append(np.square(np.abs(spectra)).sum(axis=-1))
        self._mixed.append(np.square(np.abs(np.tensordot(self._weights, spectra, axes=1))).sum(axis=-1))

    def loudest(self) -> int | None:
        """The loudest channel where channels cancel each other; None where they do not. Nothing can be added then."""
        self._look()
        rest, size = self._held[0], self._size
        if rest.shape[1] >= size or not any(part.size for part in self._mixed):
            self._measure(np.pad(rest, ((0, 0), (0, max(0, size - rest.shape[1]))))[:, None, :size])
        mixed, powers = np.concatenate(self._mixed), np.concatenate(self._powers, axis=1)
        apart = np.square(self._weights) @ powers  # what channels add up to that have nothing in common
        if not apart.any():  # of speakers that have no share in the mix
            return int(np.argmax(powers.sum(axis=1))) if powers.any() else None
        cancelled = (apart > FAINT * apart.max()) & (mixed < CANCELLED * apart)
        if apart[cancelled].sum() <= MOST_CANCELLED * apart.sum():
            return None
        return int(np.argmax(powers[:, cancelled].sum(axis=1)))
