"""Speech of any level and kind is voice; steady noise of any colour is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.noise import KINDS, RATE, SPEECH, at_level, noise, raised, whispered
from vexpress_rt.media.recording import open_recording
from vexpress_rt.media.voice_activity import FADE_SECONDS, VoiceDetector, VoiceSegments, find_voice, voice_gain

SAID = open_recording(SPEECH, RATE).read()
SILENCE = np.zeros(2 * RATE, np.float32)


def lost(speech: np.ndarray, heard: np.ndarray, before: int = 0) -> float:
    """The share of a speech's energy outside of voice; the speech begins at sample `before`."""
    gain = voice_gain(find_voice(heard, RATE), RATE, before, before + len(speech))
    power = np.square(speech.astype(np.float64))
    return float(power[gain < 1].sum() / power.sum())


# Noise


@pytest.mark.parametrize("level", [-80, -60, -50, -40, -34])
@pytest.mark.parametrize("kind", KINDS)
def test_noise_alone_has_no_voice(kind: str, level: float) -> None:
    assert find_voice(noise(kind, 8 * RATE, level), RATE) == ()


@pytest.mark.parametrize("rate", [8000, 24000, 48000])
def test_noise_has_no_voice_at_any_rate(rate: int) -> None:
    rng = np.random.default_rng(rate)
    assert find_voice(at_level(rng.standard_normal(5 * rate), -45), rate) == ()
    assert find_voice(at_level(np.cumsum(rng.standard_normal(5 * rate)), -45), rate) == ()


@pytest.mark.parametrize("kind", ["white", "pink", "brown", "hum, 50 Hz"])
def test_noise_that_begins_and_ends_in_silence_has_no_voice(kind: str) -> None:
    """As from a microphone that is switched on: a change of level alone does not change the spectrum."""
    assert find_voice(np.concatenate([SILENCE, noise(kind, 3 * RATE, -42), SILENCE]), RATE) == ()


def test_noise_whose_level_swings_has_no_voice() -> None:
    swing = 1 + 0.8 * np.sin(2 * np.pi * 2 * np.arange(8 * RATE) / RATE)
    assert find_voice(at_level(swing * noise("pink", 8 * RATE, 0), -42), RATE) == ()


def test_a_click_an_offset_and_silence_have_no_voice() -> None:
    click = np.concatenate([SILENCE, 0.5 * noise("white", 80, 0).clip(-1, 1), SILENCE])
    assert find_voice(click, RATE) == ()
    assert find_voice(SILENCE + np.float32(0.1), RATE) == ()
    assert find_voice(SILENCE, RATE) == ()
    assert find_voice(SILENCE[:0], RATE) == ()


# Speech


@pytest.mark.parametrize("level", [-20, -30, -40, -50, -55])
@pytest.mark.parametrize("kind", ["spoken", "whispered", "a child's"])
def test_speech_is_voice_at_any_level(kind: str, level: float) -> None:
    made = {"spoken": SAID, "whispered": whispered(SAID), "a child's": raised(SAID, 1.6)}[kind]
    speech = at_level(made, level)
    assert lost(speech, np.concatenate([SILENCE, speech, SILENCE]), len(SILENCE)) < 1e-4


@pytest.mark.parametrize("snr", [20, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_speech_in_noise_is_voice_and_the_noise_around_it_is_not(kind: str, snr: float) -> None:
    level, pause = -42, 2 * RATE
    speech = at_level(SAID, level)
    heard = noise(kind, len(speech) + 2 * pause, level - snr)
    heard[pause:-pause] += speech
    assert lost(speech, heard, pause) < 1e-4
    gain = voice_gain(find_voice(heard, RATE), RATE, 0, len(heard))
    assert not gain[: pause - round(0.3 * RATE)].any()
    assert not gain[-pause + round(0.5 * RATE) :].any()


@pytest.mark.parametrize("level", [-20, -45])
def test_one_short_word_after_a_long_silence_is_voice(level: float) -> None:
    word = at_level(SAID[: round(0.25 * RATE)], level)
    assert lost(word, np.concatenate([np.zeros(10 * RATE, np.float32), word, SILENCE]), 10 * RATE) < 1e-4


def test_pauses_within_speech_are_left_as_they_are() -> None:
    pause = noise("pink", round(0.4 * RATE), -60)
    speech = np.concatenate([SAID, pause, SAID])
    found = find_voice(speech, RATE)
    assert len(found) == 1
    assert found[0][0] == 0


def test_a_loud_steady_tone_is_voice() -> None:
    """A held note, or any other loud sound, is voice as in the public implementation."""
    tone = 0.2 * np.sin(2 * np.pi * 220 * np.arange(3 * RATE) / RATE)
    assert find_voice(tone.astype(np.float32), RATE) == ((0, 3 * RATE),)
    assert find_voice((tone / 20).astype(np.float32), RATE) == ()


@pytest.mark.parametrize("seconds", [0.0001, 0.01, 0.064, 0.1])
def test_a_loud_clip_too_short_to_vary_is_voice(seconds: float) -> None:
    clip = noise("white", max(1, round(seconds * RATE)), 0)
    assert find_voice(np.full_like(clip, 0.0), RATE) == ()
    if seconds >= 0.01:
        assert find_voice(0.3 * clip, RATE) == ((0, len(clip)),)
        assert find_voice(0.005 * clip, RATE) == ()


# Pieces


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9000), min_size=1, max_size=12), st.sampled_from([1000, 8000, 16000, 22050]))
def test_the_sizes_of_pieces_change_nothing(sizes: list[int], rate: int) -> None:
    samples = np.tile(at_level(SAID, -40), 3)[: sum(sizes)]
    detector = VoiceDetector(rate)
    for piece in np.split(samples, np.cumsum(sizes)[:-1]):
        detector.add(piece)
    assert detector.finish() == find_voice(samples, rate)


@settings(max_examples=15)
@given(st.integers(0, 3 * RATE))
def test_a_part_has_the_voice_of_the_whole(begin: int) -> None:
    whole = np.concatenate([SILENCE, at_level(SAID, -40), noise("pink", 2 * RATE, -45), at_level(SAID, -45)])
    known = RATE // 2  # a block's window, its hold and itself
    stop = len(whole) - 3 * RATE
    part = voice_gain(find_voice(whole[begin:stop], RATE, begin), RATE, begin, stop)
    expected = voice_gain(find_voice(whole, RATE), RATE, begin, stop)
    np.testing.assert_array_equal(part[known:-known], expected[known:-known])


def test_memory_does_not_grow_with_the_recording() -> None:
    detector = VoiceDetector(RATE)
    sound = noise("white", 5 * RATE, -45)
    for _ in range(20):
        detector.add(sound)
        assert len(detector._held) < 2 * round(0.064 * RATE)
        assert len(detector._features) <= 2 * detector._half
    assert sum(len(judged) for judged in detector._voiced) <= 100 / 0.016


def test_a_recording_knows_its_voice() -> None:
    samples = np.concatenate([noise("fan", 2 * RATE, -45), SAID, noise("fan", 2 * RATE, -45)])
    recording = open_recording((samples, RATE), RATE)
    assert recording.voice == find_voice(samples, RATE)
    assert len(recording.voice) == 1


# The gain


@st.composite
def segments(draw: st.DrawFn) -> VoiceSegments:
    edges = sorted(draw(st.lists(st.integers(0, 4000), unique=True, max_size=8)))
    return tuple(zip(edges[::2], edges[1::2], strict=False))


@given(segments(), st.integers(0, 4000), st.integers(0, 4000))
def test_the_gain_is_one_in_voice_fades_beside_it_and_a_part_is_that_of_the_whole(
    voice: VoiceSegments, start: int, count: int
) -> None:
    whole, fade = voice_gain(voice, RATE, 0, 8000), round(FADE_SECONDS * RATE)
    np.testing.assert_array_equal(voice_gain(voice, RATE, start, start + count), whole[start : start + count])
    near, within = np.zeros(8000, bool), np.zeros(8000, bool)
    for first, last in voice:
        near[max(0, first - fade) : last + fade] = True
        within[first:last] = True
    assert (whole[within] == 1).all()
    assert not whole[~near].any()
    assert (whole[near & ~within] < 1).all()
    assert np.abs(np.diff(whole)).max() <= 1.01 / fade or not voice
