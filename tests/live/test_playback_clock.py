"""When frames are due, and how late they are."""

from __future__ import annotations

from fractions import Fraction

import pytest

from vexpress_rt.live.playback_clock import PlaybackClock


@pytest.fixture
def clock() -> PlaybackClock:
    return PlaybackClock(Fraction(4))


def test_a_frame_is_late_from_the_time_on_at_which_its_sound_has_arrived(clock: PlaybackClock) -> None:
    assert clock.delay(0, 9.0) == 0
    clock.arrive(1, 10.0)
    clock.arrive(1, 11.0)  # nothing new
    assert clock.delay(0, 9.0) == 0
    assert clock.delay(0, 12.5) == 2.5
    clock.pulled(0)
    assert clock.delay(1, 20.0) == 0
    clock.arrive(2, 20.0)  # after frame 0 has been played
    assert clock.delay(1, 21.0) == 1


def test_sound_ahead_of_its_time_is_due_when_the_frames_before_have_been_played(clock: PlaybackClock) -> None:
    clock.arrive(100, 10.0)
    for frame in range(8):
        assert clock.delay(frame, 10.0) == 0
        clock.pulled(frame)
    assert clock.delay(8, 13.0) == 1.0  # due at 12
    clock.restart()
    assert clock.delay(8, 50.0) == 0
    clock.arrive(9, 60.0)
    assert clock.delay(8, 60.5) == 0.5


def test_overdue_frames_are_those_whose_time_has_passed_and_whose_sound_is_there(clock: PlaybackClock) -> None:
    clock.arrive(4, 10.0)
    assert clock.overdue(0, 10.0) == 0
    assert clock.overdue(0, 10.3) == 2  # due at 10 and 10.25
    assert clock.overdue(0, 99.0) == 4
    clock.arrive(40, 50.0)  # much later: these frames are due from then on
    assert clock.overdue(0, 50.0) == 4
    assert clock.overdue(0, 50.6) == 4 + 3
    clock.pulled(0)
    assert clock.overdue(1, 50.6) == 3 + 3


def test_frames_that_are_pulled_before_their_sound_is_counted_keep_the_pace(clock: PlaybackClock) -> None:
    clock.arrive(1, 10.0)
    for frame in range(3):
        clock.pulled(frame)
    clock.arrive(4, 10.1)
    assert clock.delay(3, 11.0) == 0.25  # due at 10.75


def test_arrivals_do_not_pile_up(clock: PlaybackClock) -> None:
    for frame in range(1000):
        clock.arrive(frame + 1, float(frame))
        clock.pulled(frame)
    assert len(clock._arrivals) == 1
