"""Speech as callers pass it: dtypes, rates and shapes of samples, and other values."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tests.support.sound_files import tone
from vexpress_rt.errors import AudioError
from vexpress_rt.media.recording import open_recording
from vexpress_rt.stages.audio_features import normalize


@pytest.mark.parametrize("order", "<>")
def test_sixteen_bit_samples_are_scaled(order: str) -> None:
    loaded = open_recording((np.array([-32768, 0, 16384], order + "i2"), 16000), 16000)
    assert loaded.read().tolist() == [-1, 0, 0.5]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_floating_point_samples_are_taken(dtype: type) -> None:
    loaded = open_recording((np.array([-1, 0, 0.5], dtype), 16000), 16000)
    assert loaded.read().dtype == np.float32
    assert loaded.read().tolist() == [-1, 0, 0.5]


@pytest.mark.parametrize("rate", [16000, np.int64(16000), 16000.0, np.float32(16000)])
def test_a_whole_rate_of_any_type_is_taken(rate: int) -> None:
    loaded = open_recording((tone(0.1, 16000), rate), 16000)
    assert loaded.duration == Fraction(1, 10)


def test_silence_is_fine() -> None:
    loaded = open_recording((np.zeros(100, np.float32), 8000), 16000)
    assert (loaded.read() == 0).all()
    assert (normalize(loaded.read()) == 0).all()


@pytest.mark.parametrize(
    "rate", [0, -1, 1, 999, 768_001, 44100.5, True, "16000", None, float("nan"), float("inf"), Fraction(1, 2), 1j]
)
def test_rates_out_of_range_are_refused(rate: object) -> None:
    with pytest.raises(AudioError, match="expected whole Hz between 1000 and 768000"):
        open_recording((tone(0.1, 16000), rate), 16000)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "at least one channel and one sample"),
        (np.zeros((0, 9), np.float32), "at least one channel and one sample"),
        (np.zeros((2, 0), np.float32), "at least one channel and one sample"),
        (np.zeros((4000, 2), np.float32), "transpose"),
        (np.zeros((1, 2, 9), np.float32), r"expected a NumPy array \(N,\)"),
        (np.zeros((), np.float32), r"expected a NumPy array \(N,\)"),
        ([0.0, 0.1], r"samples of list; expected a NumPy array"),
        (np.array([0, np.nan], np.float32), "1 audio samples are NaN or infinite, the first at 1"),
        (np.array([[0, 0], [np.inf, 0]], np.float32), "NaN or infinite, the first at 0"),
        (np.array([0, 1e300]), "NaN or infinite"),
        (np.array([0, 3e38], np.float32), r"samples of up to 3e\+38; expected full scale 1: divide them"),
        (np.array([[0, 0], [0, -20000]], np.float64), "samples of up to 20000; expected full scale 1"),
        (np.ma.masked_invalid(np.array([0, np.nan, 1], np.float32)), "NaN or infinite, the first at 1"),
        (np.zeros(9, np.int32), "dtype int32; expected float32"),
        (np.zeros(9, np.uint8), "dtype uint8; expected float32"),
        (np.zeros(9, bool), "dtype bool; expected float32"),
        (np.array(["a"]), "expected float32"),
    ],
)
def test_samples_that_are_no_sound_are_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        open_recording((samples, 16000), 16000)


@pytest.mark.parametrize("source", [None, 5, np.zeros(9, np.float32), (np.zeros(9, np.float32),)])
def test_other_sources_are_refused(source: object) -> None:
    with pytest.raises(AudioError, match="expected a path, or a tuple"):
        open_recording(source, 16000)  # type: ignore[arg-type]
