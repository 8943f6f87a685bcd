"""Input and output of the audio encoder: normalised samples, and the window of features of each video frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import ConfigError
from vexpress_rt.media.recording import Recording
from vexpress_rt.types import Float32


def normalize(samples: Float32, recording: Recording | None = None) -> Float32:
    """Shift samples to zero mean and scale them to unit variance: (x - mean) / sqrt(variance + 1e-7).

    Sums are in float64. A constant sound gives zeros.

    Args:
        samples: (N,) float32.
        recording: The recording of which the samples are a part, for its mean and variance; None if they are a whole
            clip.

    Returns:
        (N,) float32.

    Source: docs/model/specification.md, stage 3 (the feature extractor of Wav2Vec2).
    """
    wide = samples.astype(np.float64)
    mean, variance = (wide.mean(), wide.var()) if recording is None else (recording.mean, recording.variance)
    scaled: Float32 = ((wide - mean) / np.sqrt(variance + 1e-7)).astype(np.float32)
    return scaled


def feature_windows(
    features: Float32, length: int, size: int, start: int, stop: int, *, first: int = 0, total: int | None = None
) -> Float32:
    """Return the audio features of the video frames [start, stop).

    The features of the clip are interpolated in time to 2 * length (linear, half-pixel centres: torch's
    align_corners=False), and size // 2 - 1 features of zeros are put before and after them. The window of frame f is
    [2f, 2f + size) of the result: the features of the frame and its neighbours. Only the requested windows are
    computed. Positions are float64, because torch's float32 positions are off by 1e-4 of a feature after one minute.

    Args:
        features: (T, A) float32, T >= 1, the output of the audio encoder for a whole clip, or a part of it that covers
            `feature_span`.
        length: Frames of the video.
        size: Features in a window, an even number; 10 for the released model.
        start: First frame.
        stop: Frame after the last.
        first: Index of features[0] in the clip.
        total: Features of the clip; None for T.

    Returns:
        (stop - start, size, A) float32.

    Raises:
        ConfigError: `size` is odd or below 2.

    Source: docs/model/specification.md, stage 3.
    """
    assert features.ndim == 2
    assert len(features) >= 1
    total = len(features) if total is None else total
    index, position = _positions(total, length, size, start, stop)
    if start == stop:
        return np.empty((0, size, features.shape[1]), np.float32)
    low = position.astype(np.int64)
    weight = (position - low).astype(np.float32)[:, None]
    high = np.minimum(low + 1, total - 1)
    table = features[low - first] * (1 - weight) + features[high - first] * weight  # (2 * (stop - start) + size - 2, A)
    table[(index < 0) | (index >= 2 * length)] = 0
    windows = np.lib.stride_tricks.sliding_window_view(table, size, axis=0)[::2]  # (stop - start, A, size)
    return np.ascontiguousarray(windows.transpose(0, 2, 1))


def feature_span(total: int, length: int, size: int, start: int, stop: int) -> range:
    """Return the indices of the clip's features on which the windows of frames [start, stop) depend, start < stop.

    Args:
        total: Features of the clip.
        length: Frames of the video.
        size: Features in a window.
        start: First frame.
        stop: Frame after the last.
    """
    _, position = _positions(total, length, size, start, stop)
    return range(int(position[0]), min(int(position[-1]) + 2, total))


def _positions(
    total: int, length: int, size: int, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the indices of frames [start, stop) among the 2 * length interpolated features, and their positions.

    Positions are fractional indices of the clip's features; padding has the position of the nearest feature.
    """
    if size < 2 or size % 2:
        raise ConfigError(
            f"{size} audio features in a frame's window; expected an even number of at least 2: see the bundle"
        )
    assert 0 <= start <= stop <= length
    index = np.arange(2 * start, 2 * stop + size - 2) - (size // 2 - 1)
    return index, ((index + 0.5) * (total / (2 * length)) - 0.5).clip(0, total - 1)
