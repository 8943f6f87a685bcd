"""The progress of a command: one line, never longer than the terminal, never in the way."""

from __future__ import annotations

import io
import logging
import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexpress_rt.cli.progress import CommandProgress


class Terminal(io.StringIO):
    """A terminal that keeps its output; `screen` returns the visible text."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        rows = []
        for row in self.getvalue().split("\n"):
            shown = ""
            for text in row.split("\r"):
                shown = text + shown[len(text) :]
            rows.append(shown.rstrip())
        return rows


class Clock:
    """A clock that moves only when a test sets it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of progress bars."""
    return set_clock(monkeypatch)


def set_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    monkeypatch.setattr("vexpress_rt.utils.progress.time", SimpleNamespace(time=clock))
    return clock


def test_terminal_shows_share_rate_and_time_left(clock: Clock) -> None:
    screen = Terminal()
    progress = CommandProgress(screen)
    clock.now += 10
    progress("denoise", 5, 20)
    (row,) = screen.screen
    assert row.startswith("denoise:  25%|")
    assert row.endswith("| 5/20 [00:10<00:30,  2.00s/it]")


def test_rate_above_one_a_second_is_a_rate(clock: Clock) -> None:
    screen = Terminal()
    progress = CommandProgress(screen)
    clock.now += 10
    progress("denoise", 25, 100)
    assert screen.screen[0].endswith("25/100 [00:10<00:30,  2.50it/s]")


def test_rate_counts_from_the_end_of_what_came_before(clock: Clock) -> None:
    screen = Terminal()
    progress = CommandProgress(screen)
    clock.now += 1000
    progress.show("loading")
    clock.now += 4
    progress("denoise", 2, 4)
    assert screen.screen[0].endswith("2/4 [00:04<00:04,  2.00s/it]")


def test_first_unfinished_stage_leads_and_the_other_is_counted_behind(clock: Clock) -> None:
    screen = Terminal()
    progress = CommandProgress(screen)
    clock.now += 10
    progress("denoise", 10, 20)
    clock.now += 10
    progress("frames", 8, 40)
    (row,) = screen.screen
    assert row.startswith("denoise:  50%|")
    assert row.endswith("10/20 [00:20<00:20,  2.00s/it, frames 8/40]")


def test_next_stage_leads_when_the_first_is_finished_at_its_own_rate(clock: Clock) -> None:
    screen = Terminal()
    progress = CommandProgress(screen)
    progress("denoise", 1, 2)
    progress("frames", 8, 40)
    clock.now += 100
    progress("denoise", 2, 2)
    clock.now += 2
    progress("frames", 16, 40)
    (row,) = screen.screen
    assert row.startswith("frames:  40%|")
    assert row.endswith("16/40 [00:02<00:06,  4.00it/s]")


def test_terminal_is_not_rewritten_more_often_than_eyes_can_follow(clock: Clock) -> None:
    screen = Terminal()
    progress = CommandProgress(screen)
    for done in range(1000):
        clock.now += 0.001
        progress("denoise", done, 2000)
    assert 5 <= screen.getvalue().count("\r") <= 12


def test_line_is_wiped_at_the_end(clock: Clock) -> None:
    screen = Terminal()
    with CommandProgress(screen) as progress:
        progress.show("loading engines")
        assert screen.screen == ["loading engines"]
    assert screen.screen == [""]


def test_log_gets_a_line_every_few_seconds_and_at_the_end(clock: Clock) -> None:
    log = io.StringIO()
    with CommandProgress(log) as progress:
        progress.show("loading engines")
        for done in range(1, 13):
            clock.now += 1
            progress("denoise", done, 12)
    assert log.getvalue().splitlines() == [
        "loading engines",
        "denoise:  42% 5/12 [00:05<00:07,  1.00it/s]",
        "denoise:  83% 10/12 [00:10<00:02,  1.00it/s]",
        "denoise: 100% 12/12 [00:12<00:00,  1.00it/s]",
    ]


def test_stage_of_one_piece_is_merely_done(clock: Clock) -> None:
    log = io.StringIO()
    CommandProgress(log)("audio", 1, 1)
    assert log.getvalue() == "audio done\n"


def test_stage_of_one_piece_is_named_while_it_lasts(clock: Clock) -> None:
    screen = Terminal()
    progress = CommandProgress(screen)
    clock.now += 1
    progress("wait", 0, 1)
    assert screen.screen == ["wait"]
    clock.now += 1
    progress("wait", 1, 1)
    assert screen.screen == ["wait done"]


def test_warning_stands_above_the_line(clock: Clock) -> None:
    screen = Terminal()
    with CommandProgress(screen) as progress:
        progress.show("preparing the photo")
        logging.getLogger("vexpress_rt").warning("no face was found in %s", "face\x1b[2J.png")
        progress.show("loading engines")
        assert screen.screen == ["warning: no face was found in face\\x1b[2J.png", "loading engines"]


def test_a_warning_in_a_log_repeats_no_line(clock: Clock) -> None:
    log = io.StringIO()
    with CommandProgress(log) as progress:
        progress.show("loading engines")
        progress.warn("no face")
    assert log.getvalue() == "loading engines\nwarning: no face\n"


def test_quiet_lets_warnings_through_and_nothing_else(clock: Clock) -> None:
    screen = Terminal()
    with CommandProgress(screen, quiet=True) as progress:
        progress.show("loading")
        progress("frames", 1, 1)
        logging.getLogger("vexpress_rt").info("a detail")
        logging.getLogger("vexpress_rt").warning("no face")
    assert screen.getvalue() == "warning: no face\n"


def test_warnings_are_left_to_others_when_the_block_ends() -> None:
    handlers = list(logging.getLogger("vexpress_rt").handlers)
    with CommandProgress(io.StringIO()):
        assert logging.getLogger("vexpress_rt").handlers != handlers
    assert logging.getLogger("vexpress_rt").handlers == handlers


def test_stream_that_breaks_does_not_end_the_work(clock: Clock) -> None:
    class Broken(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with CommandProgress(Broken()) as progress:
        progress.show("loading")
        progress.warn("no face")
        progress("frames", 2, 2)


def test_closed_stream_does_not_end_the_work(clock: Clock) -> None:
    log = io.StringIO()
    with CommandProgress(log) as progress:
        log.close()
        progress.warn("no face")
        progress("frames", 2, 2)


@pytest.mark.parametrize("columns", [100, 70, 40, 10])
def test_line_never_wraps(columns: int, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((columns, 24)))
    monkeypatch.setattr(Terminal, "fileno", lambda self: 2, raising=False)
    screen = Terminal()
    progress = CommandProgress(screen)
    progress("denoise", 1, 9000)
    clock.now += 10
    progress("frames", 100, 9000)
    assert 0 < len(screen.screen[0]) < columns
    assert screen.screen[0].startswith("denoise:"[: columns - 1])


counts = st.tuples(st.integers(0, 30), st.integers(1, 30)).map(lambda pair: (min(pair), max(*pair, 1)))
reports = st.lists(st.tuples(st.sampled_from(["denoise", "frames", "audio"]), counts, st.floats(0, 1e5)), max_size=20)


@given(reports)
def test_whatever_is_reported_fits_a_line_and_leaves_nothing_behind(
    events: list[tuple[str, tuple[int, int], float]],
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        screen, clock = Terminal(), set_clock(monkeypatch)
        with CommandProgress(screen) as progress:
            for stage, (done, total), seconds in events:
                clock.now += seconds
                progress(stage, done, total)
                (row,) = screen.screen
                last = screen.getvalue().rpartition("\r")[2]
                assert row == last.rstrip()
                assert len(row) < 80
        assert screen.screen == [""]
