"""The sound of a live session: which samples belong to a frame, what is heard around it, and how loud that counts."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexpress_rt.live.audio_buffer import LEVEL_SECONDS, SampleBuffer, SessionAudio, first_sample, normalize_live
from vexpress_rt.stages.audio_features import normalize

RATES = st.sampled_from([8000, 11025, 16000, 24000, 44100, 48000])
FPS = st.sampled_from([Fraction(25), Fraction(30), Fraction(30000, 1001), Fraction(25, 2), Fraction(240)])


def noise(count: int, seed: int = 0, scale: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(count) * scale).astype(np.float32)


def make_sound(rate: int = 16000, model: int = 16000, fps: Fraction = Fraction(25), ahead: int = 2) -> SessionAudio:
    return SessionAudio(rate, model, fps, before=20, ahead=ahead, after=max(ahead, 2))


# What belongs to a frame


@given(RATES, FPS, st.integers(0, 10**7))
def test_a_frame_begins_at_its_time_less_than_a_sample_early(rate: int, fps: Fraction, frame: int) -> None:
    exact = frame / fps * rate
    assert first_sample(frame, rate, fps) <= exact < first_sample(frame, rate, fps) + 1


@given(RATES, FPS, st.integers(0, 9000))
def test_frames_have_what_was_said_and_then_silence_to_the_end_of_the_last(
    rate: int, fps: Fraction, count: int
) -> None:
    sound, said = make_sound(rate, fps=fps), noise(count)
    sound.push(said, rate)
    sound.finish()
    frames = -(-count * fps.numerator // (rate * fps.denominator))
    given_back = np.concatenate([np.empty(0, np.float32), *(sound.frame_samples(frame) for frame in range(frames))])
    np.testing.assert_array_equal(given_back[:count], said)
    assert not given_back[count:].any()
    assert sound.seconds == Fraction(first_sample(frames, rate, fps), rate)


@given(st.lists(st.integers(0, 400), max_size=8), st.sampled_from([(16000, 16000), (8000, 16000), (24000, 16000)]))
def test_how_sound_was_cut_shows_in_nothing(sizes: list[int], rates: tuple[int, int]) -> None:
    said = noise(sum(sizes))
    whole, pieces = make_sound(16000, 8000), make_sound(16000, 8000)
    whole.push(said, rates[0])
    for piece in np.split(said, np.cumsum(sizes)):
        pieces.push(piece, rates[0])
    whole.finish()
    pieces.finish()
    assert whole.seconds == pieces.seconds
    for one, other in zip(whole.model_input(0, 6), pieces.model_input(0, 6), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_rate_that_changes_begins_a_new_sound_with_nothing_lost() -> None:
    sound = make_sound()
    for rate, seconds in ((24000, 0.1), (48000, 0.2), (16000, 0.3), (24000, 0.4)):
        sound.push(noise(round(rate * seconds)), rate)
    sound.finish()
    assert sound.seconds == 1


# When frames can be made, and what is heard


def test_frames_wait_for_their_sound_and_for_the_look_ahead() -> None:
    sound = make_sound(ahead=3)
    sound.push(noise(11 * 640 - 1), 16000)
    assert sound.ready_frames(0, 8) == 0
    sound.push(noise(1), 16000)
    assert sound.ready_frames(0, 8) == 8
    assert sound.ready_frames(8, 16) == 0


def test_the_end_of_speech_is_not_waited_beyond_and_nothing_is_heard_there() -> None:
    sound = make_sound(ahead=3)
    sound.push(noise(10 * 640 - 5), 16000)
    sound.finish()
    sound.push(noise(6400, seed=1), 16000)
    assert sound.ready_frames(0, 8) == 8
    assert sound.ready_frames(8, 16) == 2  # the end lies between
    assert sound.ready_frames(10, 18) == 0
    heard, _ = sound.model_input(8, 16)
    begin = (16 - 20) * 640
    assert heard[10 * 640 - 5 - begin - 1] != 0
    assert not heard[10 * 640 - 5 - begin :].any()
    assert sound.model_input(10, 18)[0][10 * 640 - begin :].any()


@pytest.mark.parametrize("model", [16000, 8000, 11025])
def test_what_is_heard_has_one_length_and_lies_where_the_frames_are(model: int) -> None:
    sound, fps = make_sound(48000, model, Fraction(30)), Fraction(30)
    click = np.zeros(48000 * 2, np.float32)
    click[48000] = 1  # frame 30 begins
    sound.push(click, 48000)
    lengths = set()
    for first in (12, 20, 28):
        heard, before = sound.model_input(first, first + 8)
        lengths.add(len(heard))
        assert len(before) == LEVEL_SECONDS * model
        begin = first_sample(first + 8 - 20, model, fps)
        if first == 28:
            assert abs(int(np.argmax(abs(heard))) - (model - begin)) <= 1
    assert lengths == {first_sample(22, model, fps)}


def test_sound_beyond_the_look_ahead_is_not_heard_even_if_it_is_there() -> None:
    sound = make_sound(ahead=0)
    sound.push(noise(640 * 12), 16000)
    heard, _ = sound.model_input(0, 8)
    assert heard[-2 * 640 - 1] != 0
    assert not heard[-2 * 640 :].any()


def test_an_interruption_drops_what_comes_after_and_goes_on_there() -> None:
    sound = make_sound(rate=24000)
    sound.push(noise(24000), 24000)
    sound.finish()
    sound.interrupt(5)
    assert sound.seconds == Fraction(5, 25)
    assert sound.ready_frames(0, 8) == 0
    sound.push(noise(24000, seed=2), 24000)
    np.testing.assert_array_equal(sound.frame_samples(5), noise(24000, seed=2)[:960])


def test_memory_is_what_the_next_frames_need_however_long_it_lasts() -> None:
    sound, kept = make_sound(48000, 16000), []
    for frame in range(1500):
        sound.push(noise(1920), 48000)
        if frame % 10 == 0:
            sound.finish()
        sound.discard_before(frame)
        kept.append(sound.kept)
    assert max(kept[-100:]) == max(kept[500:600])
    assert max(kept) < 16000 * (LEVEL_SECONDS + 1) + 48000
    assert len(sound._ends) <= 1


@given(st.lists(st.tuples(st.sampled_from(["append", "end_at", "discard_before"]), st.integers(0, 60)), max_size=20))
def test_a_reel_keeps_what_was_not_forgotten(steps: list[tuple[str, int]]) -> None:
    buffer, everything, forgotten = SampleBuffer(), np.empty(0, np.float32), 0
    for name, number in steps:
        if name == "append":
            piece = noise(number, seed=number) + 1
            buffer.append(piece)
            everything = np.concatenate([everything, piece])
        elif name == "end_at":
            buffer.end_at(number)
            everything = np.concatenate([everything, np.zeros(max(0, number - len(everything)), np.float32)])[:number]
        else:
            buffer.discard_before(number)
            forgotten = max(forgotten, min(number, len(everything)))
    assert buffer.end == len(everything)
    expected = np.concatenate([everything, np.zeros(50, np.float32)])
    first = min(forgotten, len(everything))
    np.testing.assert_array_equal(buffer.read(first, len(everything) + 50), expected[first:])


def test_a_sample_is_moved_a_few_times_however_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, moved = SampleBuffer(), 0
    move = SampleBuffer._move

    def counted(self: SampleBuffer, more: int = 0) -> None:
        nonlocal moved
        moved += self.kept
        move(self, more)

    monkeypatch.setattr(SampleBuffer, "_move", counted)
    for _ in range(20_000):
        buffer.append(np.ones(16, np.float32))
    for position in range(0, 320_001, 16):
        buffer.discard_before(position)
    assert buffer.kept == 0
    assert moved <= 3 * 320_000


@given(st.lists(st.tuples(st.sampled_from(["append", "end_at", "discard_before"]), st.integers(0, 6000)), max_size=20))
def test_what_was_discarded_does_not_stay_in_memory(steps: list[tuple[str, int]]) -> None:
    buffer = SampleBuffer()
    for name, number in steps:
        getattr(buffer, name)(np.ones(number, np.float32) if name == "append" else number)
        assert len(buffer._buffer) <= 4 * buffer.kept


# How loud it counts


def test_silence_stays_silence() -> None:
    heard = np.zeros(160000, np.float32)
    assert not normalize_live(heard[:1000], heard, 16000).any()


def test_long_known_speech_counts_as_its_whole_clip_would() -> None:
    heard = noise(160000, scale=0.03) + np.float32(0.02)
    np.testing.assert_allclose(normalize_live(heard, heard, 16000), normalize(heard), atol=1e-3)


def test_pauses_do_not_make_a_voice_louder() -> None:
    voice = noise(48000, scale=0.03)
    heard = np.concatenate([np.zeros(112000, np.float32), voice])
    found = normalize_live(voice, heard, 16000)
    assert found.std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("scale", [0.004, 0.02])
def test_a_first_syllable_is_not_blown_up_but_a_quiet_voice_is_in_time(scale: float) -> None:
    syllable = noise(1600, scale=scale)
    early = normalize_live(syllable, np.concatenate([np.zeros(8000, np.float32), syllable]), 16000)
    assert early.std() < 1.2 * scale / 0.1
    late = normalize_live(syllable, noise(32000, scale=scale), 16000)
    assert late.std() == pytest.approx(1, abs=0.1)


def test_a_murmur_below_the_limit_is_never_taken_for_a_voice() -> None:
    murmur = noise(160000, scale=0.002)
    assert normalize_live(murmur, murmur, 16000).std() < 0.03
