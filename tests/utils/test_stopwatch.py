"""Seconds by stage: exclusive, interleaved, complete."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clock import Clock
from vexpress_rt.utils import stopwatch
from vexpress_rt.utils.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


def test_a_stage_takes_the_time_between_its_ends(clock: Clock) -> None:
    watch = Stopwatch()
    clock.work(1)
    with watch.stage("a"):
        clock.work(2)
    clock.work(4)
    with watch.stage("a"):
        clock.work(8)
    assert watch.finish() == {"a": 10, "total": 15}


def test_while_an_inner_stage_runs_the_outer_ones_stand_still(clock: Clock) -> None:
    watch = Stopwatch()
    with watch.stage("outer"):
        clock.work(1)
        with watch.stage("inner"):
            clock.work(2)
            with watch.stage("innermost"):
                clock.work(4)
            clock.work(8)
        clock.work(16)
    assert watch.finish() == {"outer": 17, "inner": 10, "innermost": 4, "total": 31}


def test_a_stage_within_itself_is_counted_once(clock: Clock) -> None:
    watch = Stopwatch()
    with watch.stage("a"):
        clock.work(1)
        with watch.stage("a"):
            clock.work(2)
    assert watch.finish() == {"a": 3, "total": 3}


def test_an_iterator_is_timed_while_it_makes_and_not_while_it_waits(clock: Clock) -> None:
    def source() -> Iterator[int]:
        for index in range(3):
            clock.work(1)
            yield index

    watch = Stopwatch()
    for _ in watch.each("making", source()):
        clock.work(10)
    assert watch.finish() == {"making": 3, "total": 33}


def test_chained_iterators_share_the_time_without_overlap(clock: Clock) -> None:
    def source() -> Iterator[int]:
        for index in range(3):
            clock.work(1)
            yield index

    def doubled(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            clock.work(10)
            yield 2 * item

    watch = Stopwatch()
    with watch.stage("using"):
        for _ in watch.each("second", doubled(watch.each("first", source()))):
            clock.work(100)
    assert watch.finish() == {"using": 300, "second": 30, "first": 3, "total": 333}


def test_a_stage_that_fails_is_counted_and_ends(clock: Clock) -> None:
    def fail(watch: Stopwatch) -> None:
        with watch.stage("outer"), watch.stage("failing"):
            clock.work(2)
            raise ValueError("as planned")

    watch = Stopwatch()
    with pytest.raises(ValueError, match="as planned"):
        fail(watch)
    clock.work(4)
    with watch.stage("after"):
        clock.work(8)
    assert watch.finish() == {"outer": 0, "failing": 2, "after": 8, "total": 14}


def test_an_iterator_that_is_given_up_no_longer_counts(clock: Clock) -> None:
    watch = Stopwatch()
    items = watch.each("a", iter([1, 2, 3]))
    next(items)
    clock.work(1)
    del items
    assert watch.finish() == {"a": 0, "total": 1}


def test_a_real_clock_runs() -> None:
    watch = Stopwatch()
    with watch.stage("a"):
        sum(range(10000))
    seconds = watch.finish()
    assert 0 < seconds["a"] <= seconds["total"]
