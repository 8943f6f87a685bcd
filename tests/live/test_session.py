"""A live session: sound in, frames out; engines are fakes, everything else is real."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.doubles.fakes import FakeBackend
from tests.support.live_sessions import ALPHAS, NEW, images, open_session, push_all, voice
from vexpress_rt import GenerationConfig, Generator, LiveSession, Portrait
from vexpress_rt.errors import AudioError
from vexpress_rt.live.audio_buffer import first_sample

# What goes in and what comes out


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(cuts=st.lists(st.integers(0, 16000), max_size=10), rate=st.sampled_from([16000, 24000]))
def test_how_the_sound_was_cut_changes_no_bit(
    generator: Generator, portrait: Portrait, cuts: list[int], rate: int
) -> None:
    said = voice(16000 / rate, rate)
    with open_session(generator, portrait) as one, open_session(generator, portrait) as other:
        expected = push_all(one, [said], rate)
        found = push_all(other, np.split(said, sorted(cuts)), rate)
    np.testing.assert_array_equal(images(found), images(expected))
    for a, b in zip(found, expected, strict=True):
        assert (a.index, a.time) == (b.index, b.time)
        np.testing.assert_array_equal(a.samples, b.samples)


@pytest.mark.parametrize(
    ("samples", "rate", "fps", "length"),
    [(0, 16000, 25, 0), (1, 16000, 25, 1), (640, 16000, 25, 1), (641, 16000, 25, 2), (16000, 16000, 30, 30),
     (16016, 16000, 29.97, 30), (16017, 16000, 29.97, 31), (44100, 44100, 12.5, 13)],
)  # fmt: skip
def test_a_speech_has_the_frames_that_generate_would_give_it(
    generator: Generator, portrait: Portrait, samples: int, rate: int, fps: float, length: int
) -> None:
    config = GenerationConfig(steps=1, overlap=2, fps=fps, guidance_scale=1)
    with open_session(generator, portrait, config=config, sample_rate=rate) as session:
        frames = push_all(session, [np.zeros(samples, np.float32)])
        exact = config.rate
    assert [frame.index for frame in frames] == list(range(length))
    assert exact is not None
    assert all(frame.time == frame.index / exact for frame in frames)


@pytest.mark.parametrize(("rate", "fps"), [(16000, 25), (22050, 29.97), (48000, 30)])
def test_each_frame_has_exactly_its_samples(generator: Generator, portrait: Portrait, rate: int, fps: float) -> None:
    said = voice(0.7, rate)
    config = GenerationConfig(steps=1, overlap=2, fps=fps, guidance_scale=1)
    with open_session(generator, portrait, config=config, sample_rate=rate) as session:
        frames = push_all(session, np.array_split(said, 11))
        for frame in frames:
            start, stop = (first_sample(index, rate, session.fps) for index in (frame.index, frame.index + 1))
            assert len(frame.samples) == stop - start
    given_back = np.concatenate([frame.samples for frame in frames])
    np.testing.assert_array_equal(given_back[: len(said)], said)
    assert not given_back[len(said) :].any()


def test_frames_are_pictures_of_the_bundles_size_that_hear_the_sound(session: LiveSession) -> None:
    frames = push_all(session, [np.zeros(9600, np.float32), voice(0.5)])
    assert {frame.image.shape for frame in frames} == {(64, 64, 3)}
    assert {frame.image.dtype for frame in frames} == {np.dtype(np.uint8)}
    quiet, loud = images(frames[:8]).astype(float), images(frames[-8:]).astype(float)
    assert abs(loud.mean() - quiet.mean()) > 1


def test_int16_is_as_good_and_another_full_scale_is_not_guessed(generator: Generator, portrait: Portrait) -> None:
    said = (voice(0.4) * 32768).astype(np.int16)
    with open_session(generator, portrait) as one, open_session(generator, portrait) as other:
        found = push_all(one, [said])
        np.testing.assert_array_equal(images(found), images(push_all(other, [said / np.float32(32768)])))
        with pytest.raises(AudioError, match="dtype int64"):
            one.push(said.astype(np.int64))


def test_what_was_pushed_may_be_overwritten_afterwards(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait) as one, open_session(generator, portrait) as other:
        buffer = voice(0.4)
        one.push(buffer)
        buffer[:] = 0
        one.flush()
        np.testing.assert_array_equal(images(one.frames()), images(push_all(other, [voice(0.4)])))


# When frames come


@pytest.mark.parametrize(("filtered", "frames"), [(False, NEW), (True, NEW - 1)])
def test_a_window_comes_when_its_sound_and_the_look_ahead_are_there(
    generator: Generator, portrait: Portrait, filtered: bool, frames: int
) -> None:
    """But its last frame waits, if filtered, for the next window, in which its neighbour is."""
    config = GenerationConfig(steps=2, overlap=2, fps=25, guidance_scale=1, median_filter=filtered)
    with open_session(generator, portrait, config=config) as session:
        needed = (NEW + 2) * 640
        session.push(voice(1)[: needed - 1])
        assert session.pull() is None
        session.push(voice(1)[needed - 1 : needed])
        assert [frame.index for frame in session.frames()] == list(range(frames))
        session.push(voice(1)[needed : needed + NEW * 640])
        assert [frame.index for frame in session.frames()] == list(range(frames, frames + NEW))


def test_a_flush_gives_the_rest_and_later_speech_begins_with_the_frame_after(session: LiveSession) -> None:
    session.push(voice(0.1))
    session.flush()
    session.flush()
    assert [frame.index for frame in session.frames()] == [0, 1, 2]
    again = push_all(session, [voice(0.3)])
    assert [frame.index for frame in again] == list(range(3, 11))
    np.testing.assert_array_equal(np.concatenate([frame.samples for frame in again])[:4800], voice(0.3))


def test_when_frames_are_pulled_does_not_matter_even_between_two_speeches(
    generator: Generator, portrait: Portrait
) -> None:
    with open_session(generator, portrait) as one, open_session(generator, portrait) as other:
        expected = push_all(one, [voice(0.3)]) + push_all(one, [voice(0.5)])
        other.push(voice(0.3))
        other.flush()
        other.push(voice(0.5))
        other.flush()
        np.testing.assert_array_equal(images(other.frames()), images(expected))


def test_idle_frames_come_whenever_there_is_no_speech(session: LiveSession) -> None:
    idle = [session.pull(idle=True) for _ in range(NEW + 1)]
    assert [frame.index for frame in idle if frame] == list(range(NEW + 1))
    assert not any(frame.samples.any() for frame in idle if frame)
    session.push(voice(0.2))
    session.flush()
    frames = [session.pull(idle=True) for _ in range(NEW + 5)]
    sound = np.concatenate([frame.samples for frame in frames if frame])
    waited = (NEW - 1) * 640  # of the idle window that was begun
    np.testing.assert_array_equal(sound[waited : waited + 3200], voice(0.2))


def test_idle_frames_are_those_of_silence(generator: Generator, portrait: Portrait) -> None:
    unfiltered = {"config": GenerationConfig(steps=2, overlap=2, fps=25, median_filter=False)}
    with (
        open_session(generator, portrait, **unfiltered) as idle,
        open_session(generator, portrait, **unfiltered) as pushed,
    ):
        frames = [frame for frame in (idle.pull(idle=True) for _ in range(2 * NEW)) if frame]
        np.testing.assert_array_equal(images(frames), images(push_all(pushed, [np.zeros(640 * 2 * NEW, np.float32)])))


def test_silence_is_heard_as_nothing(session: LiveSession, backend: FakeBackend) -> None:
    push_all(session, [np.zeros(16000, np.float32)])
    assert not any(call["samples"].any() for call in backend.calls("audio_encoder"))
    assert not any(call["feature_rows"].any() for call in backend.calls("audio_projection"))


def test_after_speech_and_a_pause_nothing_of_it_is_heard(session: LiveSession, backend: FakeBackend) -> None:
    push_all(session, [voice(0.5), np.zeros(32000, np.float32)])
    assert backend.calls("audio_encoder")[1]["samples"].any()
    np.testing.assert_allclose(backend.calls("audio_encoder")[-1]["samples"], 0, atol=0.05)


# How windows go on


def test_the_overlap_is_held_to_the_frames_that_were_given_out(session: LiveSession, backend: FakeBackend) -> None:
    push_all(session, [voice(1)])
    calls = backend.calls("denoiser_cond")
    given = np.stack([call["latent"][0] for call in backend.calls("vae_decoder")])[1:]  # after the frame of the rest
    alpha = float(ALPHAS[int(calls[1]["timestep"][0])])
    windows = list(zip(calls[4::2], calls[5::2], strict=True))  # of two steps; after the rest and the first
    for number, (first, second) in enumerate(windows, start=1):
        noise = first["latents"][:2]  # before the first step there is no signal
        known = given[number * NEW - 2 : number * NEW]
        expected = alpha**0.5 * known + (1 - alpha) ** 0.5 * noise
        np.testing.assert_allclose(second["latents"][:2], expected, atol=1e-5)
    assert len(windows) == 4


@pytest.mark.parametrize("overlap", [0, 1, 7])
def test_any_overlap_will_do(generator: Generator, portrait: Portrait, overlap: int) -> None:
    config = GenerationConfig(steps=1, overlap=overlap, fps=25)
    with open_session(generator, portrait, config=config) as session:
        assert len(push_all(session, [voice(0.5)])) == 13


def test_the_session_begins_with_a_window_of_silence(session: LiveSession, backend: FakeBackend) -> None:
    assert len(backend.calls("denoiser_cond")) == 2
    assert not backend.calls("audio_encoder")[0]["samples"].any()
    assert backend.calls("vae_decoder") == []


def test_time_is_exact_at_any_rate(generator: Generator, portrait: Portrait) -> None:
    config = GenerationConfig(steps=1, overlap=2, fps=29.97, guidance_scale=1)
    with open_session(generator, portrait, config=config) as session:
        frames = push_all(session, [voice(0.4)])
        assert session.fps == Fraction(30000, 1001)
    assert frames[7].time == Fraction(7 * 1001, 30000)
