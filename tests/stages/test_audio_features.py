"""Speech is normalised, and each frame has its window of features, as in the public implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import GOLDEN
from vexpress_rt.errors import ConfigError
from vexpress_rt.stages.audio_features import feature_windows, normalize


@pytest.mark.parametrize("name", ["tiny_square", "tiny_wide"])
def test_normalisation_meets_the_golden(name: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as golden:
        samples, expected = golden["waveform"], golden["audio_input_values"]
    assert np.abs(normalize(samples) - expected).max() <= 1e-6 * np.abs(expected).max()


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
def test_normalised_sound_is_finite_and_centred(values: list[float]) -> None:
    normalized = normalize(np.array(values, np.float32))
    assert normalized.dtype == np.float32
    assert np.isfinite(normalized).all()
    assert abs(normalized.mean()) < 1e-3


def reference_windows(features: np.ndarray, length: int, size: int) -> np.ndarray:
    """Return the windows by torch in float64, step by step as in docs/model.md."""
    channels_first = torch.from_numpy(features.T[None].astype(np.float64))
    table = torch.nn.functional.interpolate(channels_first, size=2 * length, mode="linear", align_corners=False)[0].T
    zeros = torch.zeros(size // 2 - 1, features.shape[1])
    table = torch.cat([zeros, table, zeros])
    return torch.stack([table[2 * f : 2 * f + size] for f in range(length)]).numpy()


@pytest.mark.parametrize(("steps", "length"), [(27, 14), (1, 3), (5, 40), (200, 7), (2, 1), (50, 25), (1, 1)])
def test_feature_windows_agree_with_torch(steps: int, length: int) -> None:
    features = np.random.default_rng(steps).standard_normal((steps, 6)).astype(np.float32)
    windows = feature_windows(features, length, 10, 0, length)
    assert windows.shape == (length, 10, 6)
    assert windows.dtype == np.float32
    np.testing.assert_allclose(windows, reference_windows(features, length, 10), atol=1e-6)


@pytest.mark.parametrize("size", [2, 4, 10, 14])
def test_windows_of_other_sizes_agree_with_torch(size: int) -> None:
    features = np.random.default_rng(size).standard_normal((9, 4)).astype(np.float32)
    np.testing.assert_allclose(
        feature_windows(features, 6, size, 0, 6), reference_windows(features, 6, size), atol=1e-6
    )


@given(length=st.integers(1, 30), steps=st.integers(1, 60), data=st.data())
def test_a_stretch_of_frames_is_cut_from_the_whole(length: int, steps: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, length))
    stop = data.draw(st.integers(start, length))
    features = np.random.default_rng(length).standard_normal((steps, 3)).astype(np.float32)
    part = feature_windows(features, length, 10, start, stop)
    np.testing.assert_array_equal(part, feature_windows(features, length, 10, 0, length)[start:stop])


@pytest.mark.parametrize("size", [0, -2, 5])
def test_windows_of_an_odd_size_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="expected an even number"):
        feature_windows(np.zeros((3, 4), np.float32), 2, size, 0, 2)
