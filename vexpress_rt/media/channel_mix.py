"""Mixing weights between channel layouts, by speaker positions."""

from __future__ import annotations

from functools import lru_cache

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.filter import Graph
from numpy.typing import NDArray

from vexpress_rt.types import Float32

Weights = NDArray[np.float64]


def mono_weights(layout: str | None, channels: int) -> Weights:
    """Return the weights of each channel in a mono mix.

    One or two channels, and channels of an unknown layout, are averaged. Others are mixed as FFmpeg mixes
    floating-point samples (ITU-R BS.775): centre at 0 dB, front at -3 dB, sides at -6 dB, without the LFE. So speech,
    which is in the centre, keeps its level.

    Args:
        layout: FFmpeg's name of the channel layout, such as "5.1"; None for unknown.
        channels: Number of channels.

    Returns:
        (channels,) float64.
    """
    weights = None if layout is None or channels < 3 else _speaker_weights(layout, "mono")
    return np.full(channels, 1 / channels) if weights is None or not weights.any() else weights[0]


def stereo_weights(layout: str | None, channels: int) -> Weights | None:
    """Return the weights of each channel in left and right, as in FFmpeg.

    Args:
        layout: FFmpeg's name of the channel layout; None for unknown.
        channels: Number of channels.

    Returns:
        (2, channels) float64; None for one or two channels, and for an unknown layout.
    """
    return None if layout is None or channels < 3 else _speaker_weights(layout, "stereo")


def track_weights(layout: str | None, channels: int) -> Weights | None:
    """Return the weights of each channel in the sound track of a video, which is mono or stereo.

    More than two channels are mixed to stereo by speaker positions, or averaged to mono if these are unknown.

    Args:
        layout: FFmpeg's name of the channel layout; None for unknown.
        channels: Number of channels.

    Returns:
        (1 or 2, channels) float64; None for one or two channels, which are kept.
    """
    if channels <= 2:
        return None
    weights = stereo_weights(layout, channels)
    return mono_weights(None, channels)[None] if weights is None else weights


def mix(samples: Float32, weights: Weights) -> Float32:
    """Mix channels with weights; sums are computed in float64.

    Args:
        samples: (channels, n) float32.
        weights: (channels,) or (outputs, channels) float64.

    Returns:
        (n,) or (outputs, n) float32.
    """
    wide: Weights = weights @ samples.astype(np.float64)
    return wide.astype(np.float32)


def conversion_weights(layout: str, channels: int, to_layout: str, to_channels: int) -> Weights:
    """Return the weights that convert one channel layout to another.

    Args:
        layout: FFmpeg's name of the layout of the input.
        channels: Number of its channels.
        to_layout: FFmpeg's name of the layout of the output.
        to_channels: Number of its channels.

    Returns:
        (to_channels, channels) float64.
    """
    if to_channels > 2 and (weights := _speaker_weights(layout, to_layout)) is not None:
        return weights
    if to_channels == 2 and (weights := stereo_weights(layout, channels)) is not None:
        return weights
    return np.repeat(mono_weights(layout, channels)[None], to_channels, axis=0)


@lru_cache(maxsize=64)
def _speaker_weights(layout: str, to: str) -> Weights | None:
    """Return libswresample's response to an impulse in each channel; None if it cannot mix these layouts."""
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
