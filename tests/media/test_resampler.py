"""Sound is resampled in pieces of any size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexpress_rt.errors import AudioError
from vexpress_rt.media.resampler import Resampler

RATES = [(8000, 16000), (44100, 16000), (48000, 16000), (24000, 8000), (16000, 44100), (22050, 24000)]


def resampled(samples: np.ndarray, source: int, rate: int, cuts: Sequence[int] = ()) -> np.ndarray:
    resampler = Resampler(source, rate)
    pieces = [resampler.push(piece) for piece in np.split(samples, sorted(cuts))]
    return np.concatenate([*pieces, resampler.finish()])


@given(st.sampled_from(RATES), st.integers(1, 3000), st.lists(st.integers(0, 3000), max_size=12))
def test_pieces_do_not_show_and_duration_is_kept(rates: tuple[int, int], count: int, cuts: list[int]) -> None:
    samples = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    whole = resampled(samples, *rates)
    assert len(whole) == max(1, round(count * rates[1] / rates[0]))
    np.testing.assert_array_equal(resampled(samples, *rates, [min(cut, count) for cut in cuts]), whole)


@pytest.mark.parametrize(("source", "rate"), RATES)
def test_a_tone_stays_the_tone_that_it_is(source: int, rate: int) -> None:
    def tone(at: int) -> np.ndarray:
        return np.sin(2 * np.pi * 440 * np.arange(at) / at).astype(np.float32)

    found = resampled(tone(source), source, rate)
    np.testing.assert_allclose(found[100:-100], tone(rate)[100:-100], atol=2e-3)


def test_it_lags_behind_by_about_a_millisecond() -> None:
    resampler = Resampler(48000, 16000)
    ready = len(resampler.push(np.zeros(48000, np.float32)))
    assert 16000 - 32 <= ready < 16000
    assert (resampler.received, resampler.given) == (48000, ready)


@pytest.mark.parametrize(("source", "rate"), [(1000, 768_000), (768_000, 1000)])
def test_the_rates_that_are_furthest_apart_can_be_resampled(source: int, rate: int) -> None:
    assert len(resampled(np.zeros(source, np.float32), source, rate)) == rate


def test_a_refusal_of_libswresample_names_both_rates() -> None:
    with pytest.raises(AudioError, match=r"sound of 768000 Hz cannot be resampled to 1 Hz \(.*\); expected rates"):
        Resampler(768_000, 1).push(np.zeros(768, np.float32))
