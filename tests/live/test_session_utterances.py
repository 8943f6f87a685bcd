"""Utterances of a live session: idle frames between them and none inside, and what each frame says it is."""

from __future__ import annotations

import numpy as np
import pytest

from tests.doubles.fakes import FakeBackend
from tests.support.live_sessions import NEW, images, open_session, push_all, set_clock, voice
from vexpress_rt import Generator, LiveFrame, LiveSession, Portrait


def idle_pulls(session: LiveSession, count: int) -> list[LiveFrame]:
    """Pull idle frames `count` times; return those that came."""
    return [frame for _ in range(count) if (frame := session.pull(idle=True)) is not None]


def sound(frames: list[LiveFrame]) -> np.ndarray:
    return np.concatenate([frame.samples for frame in frames])


def test_an_idle_pull_puts_no_silence_into_a_word(session: LiveSession) -> None:
    set_clock(session)
    word = voice(1.0)
    session.push(word[:1600])
    assert session.pull(idle=True) is None
    frames: list[LiveFrame] = []
    for start in range(1600, len(word), 160):
        session.push(word[start : start + 160])
        frames += idle_pulls(session, 1)
    session.flush()
    frames += session.frames()
    np.testing.assert_array_equal(sound(frames), word)
    assert not any(frame.idle for frame in frames)


@pytest.mark.parametrize("pulled", range(1, 2 * NEW + 2))
def test_speech_after_an_idle_frame_starts_within_one_window(session: LiveSession, pulled: int) -> None:
    idle = idle_pulls(session, pulled)
    session.push(voice(0.6))
    session.flush()
    frames = idle_pulls(session, 4 * NEW)
    first = next(frame for frame in frames if frame.first)
    assert 1 <= first.index - idle[-1].index <= NEW
    assert not any(frame.samples.any() for frame in frames[: frames.index(first)])
    np.testing.assert_array_equal(sound(frames[frames.index(first) :])[:9600], voice(0.6))


def test_frames_say_what_they_are(session: LiveSession) -> None:
    frames = idle_pulls(session, 2)
    session.push(voice(0.1))
    session.flush()
    session.flush()
    session.push(voice(0.04))
    session.flush()
    frames += [frame for frame in iter(session.pull, None) if frame]
    frames += idle_pulls(session, 1)
    rest = NEW - 2  # of the idle window that was begun
    assert [frame.utterance for frame in frames] == [0] * (2 + rest) + [1, 1, 1, 2] + [2]
    assert [frame.idle for frame in frames] == [True] * (2 + rest) + [False] * 4 + [True]
    assert [frame.index - NEW for frame in frames if frame.first] == [0, 3]
    assert [frame.index - NEW for frame in frames if frame.last] == [2, 3]
    assert not any(frame.held for frame in frames)


def test_an_interruption_ends_the_utterance_without_a_last_frame(session: LiveSession) -> None:
    session.push(voice(1))
    spoken = [session.pull() for _ in range(3)]
    session.interrupt(shown=2)
    frames = [frame for frame in spoken if frame] + idle_pulls(session, 1) + push_all(session, [voice(0.1)])
    assert [frame.index for frame in frames[:4]] == [0, 1, 2, 2]
    assert [frame.utterance for frame in frames] == [1, 1, 1, 1, *[1] * (NEW - 1), 2, 2, 2]
    assert [frame.idle for frame in frames] == [False] * 3 + [True] * NEW + [False] * 3
    assert [frame.first for frame in frames] == [True, *[False] * (NEW + 2), True, False, False]
    assert [frame.last for frame in frames] == [False] * (NEW + 5) + [True]


def test_an_utterance_ends_after_a_gap_without_new_sound(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait, idle_after=0.5) as session:
        clock = set_clock(session)
        session.push(voice(0.1)[:800])
        clock.now = 0.4
        session.push(voice(0.1)[800:])
        session.push(np.empty(0, np.float32))  # no sound
        clock.now = 0.8  # 0.4 after the last sound
        assert session.pull(idle=True) is None
        clock.now = 0.9
        assert session.pull() is None  # only idle pulls end an utterance
        frames = idle_pulls(session, 4)
        assert [(frame.idle, frame.last) for frame in frames] == [(False, False)] * 2 + [(False, True), (True, False)]
        np.testing.assert_array_equal(sound(frames)[:1600], voice(0.1))
        session.push(voice(0.1))
        session.flush()
        assert [frame.utterance for frame in session.frames()][-3:] == [2, 2, 2]


def test_frames_after_a_gap_are_those_after_a_flush(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait, idle_after=0) as one, open_session(generator, portrait) as other:
        for session in (one, other):
            session.push(voice(0.5))
        other.flush()
        found, expected = idle_pulls(one, 20), idle_pulls(other, 20)
    np.testing.assert_array_equal(images(found), images(expected))


def test_without_a_limit_only_flush_ends_an_utterance(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait, idle_after=None) as session:
        clock = set_clock(session)
        session.push(voice(0.1))
        clock.now = 1e9
        assert session.pull(timeout=0.001, idle=True) is None
        session.flush()
        assert len(idle_pulls(session, 4)) == 4


def test_an_idle_pull_waits_for_the_end_of_the_utterance(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait, idle_after=0.02) as session:
        session.push(voice(0.1))
        frame = session.pull(timeout=None, idle=True)
        assert frame is not None
        assert not frame.idle


def test_a_window_that_idle_frames_wait_for_is_made_once(session: LiveSession, backend: FakeBackend) -> None:
    calls = len(backend.calls("denoiser_cond"))
    idle_pulls(session, NEW)
    assert len(backend.calls("denoiser_cond")) == calls + 2
