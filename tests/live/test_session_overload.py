"""A live session that falls behind: what it measures, and what each policy does. Engines take time on a clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.doubles.fakes import FakeBackend
from tests.support.live_sessions import NEW, SimulatedClock, open_session, set_clock, voice
from vexpress_rt import GenerationConfig, Generator, LiveFrame, LiveSession, Portrait
from vexpress_rt.errors import AudioError

UNFILTERED = GenerationConfig(steps=2, overlap=2, fps=25, guidance_scale=1, median_filter=False)
T, CALL = 0.04, 0.3  # seconds: of a frame; of an engine call, of which a window of 0.24 seconds has two
WINDOW = (NEW + 2 + 1) * T  # seconds of sound that a window waits for
SPEECH = np.concatenate([voice(1.0) + 0.001 * second for second in range(24)])

Opened = Callable[..., tuple[LiveSession, SimulatedClock]]


@pytest.fixture
def opened(generator: Generator, portrait: Portrait, backend: FakeBackend) -> Opened:
    """A function that opens a session whose denoiser and decoder take time."""

    def open_slow(call: float = CALL, decoding: float = 0.0, **options: Any) -> tuple[LiveSession, SimulatedClock]:
        session = open_session(generator, portrait, **{"config": UNFILTERED, "max_lag": 1, **options})
        clock = set_clock(session)
        for name, seconds in (("denoiser_cond", call), ("vae_decoder", decoding)):
            engine = backend.engines[name]

            def slow(spec: Any, inputs: Any, compute: Any = engine._compute, seconds: float = seconds) -> Any:
                clock.work(seconds)
                return compute(spec, inputs)

            engine._compute = slow
        return session, clock

    return open_slow


def converse(session: LiveSession, clock: SimulatedClock, seconds: float) -> list[tuple[LiveFrame, float]]:
    """Push SPEECH in chunks of a frame as it is spoken, and pull all the time; return frames and their times."""
    frames: list[tuple[LiveFrame, float]] = []
    chunks = iter(np.split(SPEECH, len(SPEECH) // 640))
    next_chunk = T

    def speak() -> None:
        nonlocal next_chunk
        while next_chunk <= clock.now:
            session.push(next(chunks))
            next_chunk += T

    clock.tick = speak
    while clock.now < seconds:
        frame = session.pull()
        if frame is None:
            clock.work(0.01)
        else:
            frames.append((frame, clock.now))
    clock.tick = lambda: None
    return frames


def latest(frames: list[tuple[LiveFrame, float]]) -> float:
    """Return by how many seconds a frame is late at most, beyond the wait for the sound of a window."""
    return max(at - ((frame.index + 1) * T + WINDOW) for frame, at in frames)


def test_dropped_pictures_keep_all_sound_in_order_and_in_time(opened: Opened) -> None:
    session, clock = opened(overload="drop")
    frames = converse(session, clock, 10.0)
    assert [frame.index for frame, _ in frames] == list(range(len(frames)))
    sound = np.concatenate([frame.samples for frame, _ in frames])
    np.testing.assert_array_equal(sound, SPEECH[: len(sound)])
    assert 1 < latest(frames) <= 1 + CALL + 0.02  # `max_lag`, a call, and two ticks
    held = [frame.held for frame, _ in frames]
    assert 0.3 < np.mean(held) < 0.8
    for (before, _), (frame, _) in pairwise(frames):
        assert np.array_equal(frame.image, before.image) or not frame.held
    assert len({frame.image.tobytes() for frame, _ in frames}) >= 20


def test_a_held_image_is_not_what_the_caller_made_of_it(opened: Opened) -> None:
    session, clock = opened(overload="drop")
    frames = []
    session.push(SPEECH[:16000])
    while (frame := session.pull()) is not None:
        frames.append((frame, frame.image.copy()))
        frame.image[:] = 0
        clock.now += 0.3
    held = [image for frame, image in frames if frame.held]
    assert held
    assert all(image.any() for image in held)


def test_a_machine_that_finishes_no_window_in_time_shows_a_resting_face_with_all_sound(opened: Opened) -> None:
    session, clock = opened(call=2.0, overload="drop")
    frames = converse(session, clock, 15.0)
    assert all(frame.held and frame.image.shape == (64, 64, 3) for frame, _ in frames)
    sound = np.concatenate([frame.samples for frame, _ in frames])
    assert len(sound) > 8 * 16000
    np.testing.assert_array_equal(sound, SPEECH[: len(sound)])


def test_skipped_speech_is_left_out_and_the_newest_comes_in_time(opened: Opened) -> None:
    session, clock = opened(overload="skip")
    frames = converse(session, clock, 10.0)
    indices = np.array([frame.index for frame, _ in frames])
    jumps = np.diff(indices)
    assert (jumps >= 1).all()
    assert (jumps > 5).sum() >= 3
    for frame, _ in frames:
        assert not frame.held
        np.testing.assert_array_equal(frame.samples, SPEECH[frame.index * 640 :][:640])
        assert frame.time == frame.index / session.fps
    assert 0.5 < latest(frames) <= 1 + CALL + 0.02
    assert indices[-1] > 25 * 8
    assert [frame.first for frame, _ in frames].count(True) == 1


def test_after_a_skip_nothing_has_to_be_taken_back(opened: Opened) -> None:
    session, clock = opened(call=2.0, overload="skip")
    assert converse(session, clock, 11.0) == []  # no window is made in time, and each pull returns
    session.interrupt(shown=0)
    assert session.lag == 0
    assert session.pull(idle=True) is not None


def test_speech_that_is_faster_than_it_is_played_is_neither_dropped_nor_refused(opened: Opened) -> None:
    session, clock = opened(call=0.08, overload="drop", max_lag=1)  # 0.16 of 0.24 seconds
    session.push(SPEECH)
    session.flush()
    frames = list(session.frames())
    assert clock.now == pytest.approx(24 / 0.24 * 0.16)
    assert len(frames) == 600
    assert not any(frame.held for frame in frames)
    with pytest.raises(AudioError, match=r"601.00 seconds .* expected at most 600: pull frames .* larger max_lag"):
        session.push(np.broadcast_to(np.float32(0), 601 * 16000))


def test_a_pause_of_the_network_is_no_overload(opened: Opened) -> None:
    session, clock = opened(call=0.01, overload="skip", idle_after=None)
    session.push(SPEECH[:1600])
    assert session.pull() is None
    clock.now += 30
    assert session.delay == 0
    session.push(SPEECH[1600:16000])
    session.flush()
    assert [frame.index for frame in session.frames()] == list(range(25))


def test_delay_is_the_time_since_the_next_frame_was_due(opened: Opened) -> None:
    session, clock = opened(call=0.0)
    session.push(SPEECH[:16000])
    session.flush()
    assert session.delay == 0
    clock.now += 0.5
    assert session.delay == 0.5
    session.pull()
    assert session.delay == pytest.approx(0.5 - T)
    session.interrupt()
    assert session.delay == 0


def test_the_realtime_factor_is_that_of_the_work_on_the_last_four_seconds(opened: Opened) -> None:
    session, clock = opened(call=0.06, decoding=0.01)
    assert session.realtime_factor is None
    session.push(SPEECH[: 2 * NEW * 640 + 1280])
    frames = [session.pull()]
    expected = T / (2 * 0.06 / NEW + 0.01)
    assert session.realtime_factor == pytest.approx(expected)
    clock.now += 100  # waiting
    frames += [session.pull() for _ in range(NEW + 1)]
    assert all(frames)
    assert session.realtime_factor == pytest.approx(expected)
    assert session._costs.maxlen == 100


def test_the_realtime_factor_shows_an_overload(opened: Opened) -> None:
    session, clock = opened(overload="drop")
    converse(session, clock, 10.0)
    factor = session.realtime_factor
    assert factor is not None
    assert 0.3 < factor < 0.55  # a window of 0.24 seconds takes 0.6; some are abandoned after half of it


def test_work_that_takes_no_time_has_no_limit(opened: Opened) -> None:
    session, _ = opened(call=0.0)
    session.push(SPEECH[:16000])
    session.pull()
    assert session.realtime_factor == math.inf
