"""A live session that is interrupted, waited for by several threads, closed, or let down by its engines."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from tests.doubles.fakes import FakeBackend
from tests.support.live_sessions import NEW, images, open_session, push_all, voice
from tests.support.scenes import photo
from vexpress_rt import Generator, LiveFrame, LiveSession, Portrait
from vexpress_rt.errors import BackendError, InputError

# Interruptions


def test_an_interruption_drops_what_was_not_pulled_and_goes_on_from_there(
    session: LiveSession, backend: FakeBackend
) -> None:
    session.push(voice(2))
    for index in range(3):
        frame = session.pull()
        assert frame is not None
        assert frame.index == index
    session.interrupt()
    assert session.pull() is None
    assert session.lag == 0
    frames = push_all(session, [np.zeros(16000, np.float32)])
    assert [frame.index for frame in frames] == list(range(3, 28))
    assert not any(frame.samples.any() for frame in frames)
    assert len(backend.calls("reference_net")) == 1
    rest = [frame.image for frame in push_all(session, [np.zeros(16000, np.float32)])]
    assert abs(np.mean(rest[-NEW:]) - np.mean(images(frames[-NEW:]))) < 2


def test_frames_that_were_pulled_but_not_shown_can_be_taken_back(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait) as one, open_session(generator, portrait) as other:
        one.push(voice(0.6))
        one.flush()
        list(one.frames())
        one.interrupt(shown=5)
        other.push(voice(0.6))
        for _ in range(5):
            other.pull()
        other.interrupt()
        found, expected = push_all(one, [voice(0.4)]), push_all(other, [voice(0.4)])
    assert [frame.index for frame in found] == list(range(5, 15))
    np.testing.assert_array_equal(images(found), images(expected))


def test_only_what_was_pulled_and_is_kept_can_be_taken_back(session: LiveSession) -> None:
    push_all(session, [voice(1)])
    with pytest.raises(InputError, match="26 frames were shown; expected 12 to 25"):
        session.interrupt(shown=26)
    with pytest.raises(InputError, match=r"11 frames were shown; expected 12 to 25: .* more context"):
        session.interrupt(shown=11)
    with pytest.raises(InputError, match=r"12\.5 frames were shown"):
        session.interrupt(shown=12.5)  # type: ignore[arg-type]
    session.interrupt(shown=12)
    with pytest.raises(InputError, match="expected 12 to 12"):
        session.interrupt(shown=11)
    assert [frame.index for frame in push_all(session, [voice(0.04)])] == [12]


def test_an_interruption_from_another_thread_ends_the_window_in_work(
    session: LiveSession, backend: FakeBackend
) -> None:
    engine = backend.engines["denoiser_cond"]
    compute, begun, go_on = engine._compute, threading.Event(), threading.Event()

    def slow(spec: Any, inputs: Any) -> Any:
        begun.set()
        assert go_on.wait(10)
        return compute(spec, inputs)

    session.push(voice(1))
    engine._compute = slow
    calls, got = len(engine.calls), []
    puller = threading.Thread(target=lambda: got.append(session.pull()))
    puller.start()
    assert begun.wait(10)
    session.interrupt()  # returns although a window is in work
    session.push(voice(0.1))
    go_on.set()
    puller.join(10)
    assert got == [None]
    assert len(engine.calls) == calls + 1
    session.flush()
    assert [frame.index for frame in session.frames()] == [0, 1, 2]


# Threads and waiting


def test_a_pull_waits_for_sound_from_another_thread(session: LiveSession) -> None:
    timer = threading.Timer(0.05, session.push, [voice(1)])
    timer.start()
    frame = session.pull(timeout=10)
    timer.join()
    assert frame is not None
    assert session.pull(timeout=0.0) is not None


def test_who_waits_for_sound_keeps_nobody_else_from_pulling(session: LiveSession) -> None:
    waiting = threading.Thread(target=session.pull, args=(None,))
    waiting.start()
    try:
        assert session.pull() is None
        assert session.pull(idle=True) is not None
    finally:
        session.close()
        waiting.join(10)
    assert not waiting.is_alive()


def test_frames_are_the_same_if_one_thread_speaks_while_another_pulls(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait) as alone, open_session(generator, portrait) as session:
        expected = push_all(alone, [voice(1.2)])
        frames: list[LiveFrame] = []
        reader = threading.Thread(target=lambda: frames.extend(session.frames(timeout=10)))
        reader.start()
        for piece in np.array_split(voice(1.2), 60):
            session.push(piece)
        session.flush()
        while len(frames) < len(expected):
            threading.Event().wait(0.01)
        session.close()
        reader.join(10)
    np.testing.assert_array_equal(images(frames), images(expected))


def test_a_pull_gives_up_when_its_time_is_over(session: LiveSession) -> None:
    assert session.pull(timeout=0.01) is None


def test_whoever_waits_without_end_is_let_go_by_closing(session: LiveSession) -> None:
    frames: list[LiveFrame] = []
    reader = threading.Thread(target=lambda: frames.extend(session.frames(timeout=None)))
    reader.start()
    session.push(voice(0.4))
    session.flush()
    while len(frames) < 10:
        threading.Event().wait(0.01)
    session.close()
    reader.join(10)
    assert not reader.is_alive()
    assert [frame.index for frame in frames] == list(range(10))


def test_two_sessions_of_one_generator_do_not_disturb_each_other(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait) as alone:
        expected = images(push_all(alone, [voice(0.5)]))
    with open_session(generator, portrait) as one, open_session(generator, generator.prepare(photo(x=20))) as other:
        frames = []
        for piece in np.array_split(voice(0.5), 7):
            one.push(piece)
            other.push(piece[::-1].copy())
            frames += [*one.frames()]
            list(other.frames())
        one.flush()
        frames += one.frames()
    np.testing.assert_array_equal(images(frames), expected)


# Ends


def test_a_closed_session_says_so(session: LiveSession) -> None:
    session.push(voice(1))
    session.close()
    session.close()
    uses = [session.pull, session.flush, session.interrupt, session.frames, lambda: session.push(voice(0.1))]
    for use in uses:
        with pytest.raises(InputError, match="was closed: make a new one"):
            use()


@pytest.mark.parametrize("name", ["pose_guider", "denoiser_cond", "vae_decoder"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_behind_if_it_is_closed_while_another_thread_pulls(
    session: LiveSession, backend: FakeBackend, name: str, fails: bool
) -> None:
    engine = backend.engines[name]
    compute, begun, go_on = engine._compute, threading.Event(), threading.Event()

    def slow(spec: Any, inputs: Any) -> Any:
        begun.set()
        assert go_on.wait(10)
        return _fail(spec, inputs) if fails else compute(spec, inputs)

    def pull() -> None:
        with suppress(BackendError):
            got.append(session.pull())

    got: list[LiveFrame | None] = []
    session.push(voice(1))
    session._denoiser.forget()  # so that the pose is computed again
    engine._compute = slow
    puller = threading.Thread(target=pull)
    puller.start()
    assert begun.wait(10)
    session.close()
    go_on.set()
    puller.join(10)
    assert got == ([] if fails else [None])
    assert session._denoiser._posed is None
    assert session._denoiser._decoded == []
    assert session._denoiser._store is None
    assert not session._latents
    assert session._audio.kept == 0


def test_a_generator_that_was_closed_is_named(session: LiveSession, generator: Generator) -> None:
    session.push(voice(1))
    generator.close()
    with pytest.raises(BackendError, match="this Generator was closed"):
        session.pull()


def test_after_an_engines_failure_the_same_frames_can_be_asked_for_again(
    generator: Generator, portrait: Portrait, backend: FakeBackend
) -> None:
    with open_session(generator, portrait) as alone:
        expected = images(push_all(alone, [voice(0.5)]))
    with open_session(generator, portrait) as session:
        session.push(voice(0.5))
        session.flush()
        frames = [session.pull()]
        for name in ("vae_decoder", "denoiser_cond"):
            compute = backend.engines[name]._compute
            backend.engines[name]._compute = _fail
            coming = session.frames()
            with pytest.raises(BackendError, match="memory ran out"):
                frames.extend(coming)
            backend.engines[name]._compute = compute
        frames += list(session.frames())
    np.testing.assert_array_equal(images(f for f in frames if f), expected)


def _fail(spec: Any, inputs: Any) -> Any:
    raise BackendError("engine failed: memory ran out")
