"""What a mouth does, read off the sound: open with loud open vowels, spread or round with the second formant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.pocket.lips import HOP, RATE, MouthTrack, mouth_track

SILENCE = np.zeros(RATE, np.float32)


def vowel(first: float, second: float, seconds: float = 0.6, pitch: float = 120.0) -> np.ndarray:
    """Harmonics of `pitch` under two resonances, with silence around."""
    time = np.arange(round(seconds * RATE)) / RATE
    tones = np.arange(1, 40) * pitch
    strength = sum(1 / (1 + ((tones - formant) / 60) ** 2) for formant in (first, second, 2600.0))
    sound = (strength[:, None] / tones[:, None] ** 0.5 * np.sin(2 * np.pi * tones[:, None] * time)).sum(axis=0)
    return np.concatenate([SILENCE[:4000], (0.3 * sound / np.abs(sound).max()).astype(np.float32), SILENCE[:4000]])


def middle(track: MouthTrack) -> tuple[float, float, float]:
    """Openness, width and rounding half-way."""
    at = len(track.openness) // 2
    return float(track.openness[at]), float(track.width[at]), float(track.rounding[at])


def test_an_open_vowel_opens_the_mouth_more_than_a_closed_one() -> None:
    assert middle(mouth_track(vowel(730, 1100)))[0] > middle(mouth_track(vowel(300, 2250)))[0] + 0.15


def test_a_bright_vowel_spreads_the_lips_and_a_dark_one_rounds_them() -> None:
    _, spread, unrounded = middle(mouth_track(vowel(300, 2250)))
    _, narrow, rounded = middle(mouth_track(vowel(320, 900)))
    assert spread > 0.5 > -0.5 > narrow
    assert rounded > 0.5 > 0.1 > unrounded


@pytest.mark.parametrize("level", [0.0, 0.003, 0.1])
def test_without_speech_the_mouth_stays_closed(level: float) -> None:
    noise = (np.random.default_rng(0).standard_normal(3 * RATE) * level).astype(np.float32)
    assert mouth_track(noise).openness.max() == 0


def test_pauses_close_the_mouth_and_vowels_open_it() -> None:
    vowels = [vowel(730, 1100, 0.2), vowel(540, 1820, 0.2), vowel(500, 920, 0.2)]
    openness = mouth_track(np.concatenate(vowels)).openness
    middles = (2 * np.arange(len(vowels)) + 1) * len(vowels[0]) // 2 // HOP
    assert openness[middles].min() > 0.6
    assert openness[(middles[1:] + middles[:-1]) // 2].max() < 0.05


@pytest.mark.parametrize("gain", [0.05, 3.0])
def test_loudness_counts_relative_to_the_clip(gain: float) -> None:
    samples = vowel(600, 1300)
    np.testing.assert_allclose(mouth_track(samples * gain).openness, mouth_track(samples).openness, atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3 * RATE), st.integers(0, 5))
def test_any_sound_gives_values_within_their_ranges(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = (rng.standard_normal(count) * rng.uniform(0, 1, count) ** 4).astype(np.float32)
    track = mouth_track(samples)
    assert len(track.openness) == len(track.width) == len(track.rounding) == -(-(count + 1) // HOP)
    assert 0 <= track.openness.min() <= track.openness.max() <= 1
    assert -1 <= track.width.min() <= track.width.max() <= 1
    assert 0 <= track.rounding.min() <= track.rounding.max() <= 1


def test_a_videos_frames_take_the_track_at_their_middles() -> None:
    ramp = np.linspace(0, 1, 101, dtype=np.float32)
    track = MouthTrack(ramp, 2 * ramp - 1, 1 - ramp, rate=100.0)
    frames = track.at(25, 25.0)
    assert frames.shape == (25, 3)
    assert frames.dtype == np.float32
    np.testing.assert_allclose(frames[:, 0], (np.arange(25) + 0.5) / 25, atol=1e-6)
    np.testing.assert_allclose(frames[:, 1], 2 * frames[:, 0] - 1, atol=1e-6)
