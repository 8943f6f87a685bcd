"""How the channels of a recording are mixed to fewer or more, by the speakers that they belong to."""

from __future__ import annotations

from functools import lru_cache

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.filter import Graph
from numpy.typing import NDArray

Weights = NDArray[np.float64]


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
