"""What the command line tells: never harmful, never longer than the line, never in the way."""

from __future__ import annotations

import io
import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexpress_rt.cli.terminal import Progress, duration, say


class Terminal(io.StringIO):
    """Keeps what was written; `screen` is what one would see."""

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
    """Stands still unless moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_terminal_shows_share_rate_and_time_left(clock: Clock) -> None:
    screen = Terminal()
    progress = Progress(screen, clock=clock)
    clock.now += 10
    progress("denoise", 5, 20)
    assert screen.screen == ["[#####...............]  denoise 5/20  25 %  2.0 s each  0:30 left"]


def test_rate_above_one_a_second_is_a_rate(clock: Clock) -> None:
    screen = Terminal()
    progress = Progress(screen, clock=clock)
    clock.now += 10
    progress("denoise", 25, 100)
    assert screen.screen[0].endswith("25 %  2.5/s  0:30 left")


def test_rate_counts_from_the_end_of_what_came_before(clock: Clock) -> None:
    screen = Terminal()
    progress = Progress(screen, clock=clock)
    clock.now += 1000
    progress.show("loading")
    clock.now += 4
    progress("denoise", 2, 4)
    assert screen.screen[0].endswith("50 %  2.0 s each  0:04 left")


def test_first_unfinished_stage_leads_and_the_other_is_counted_behind(clock: Clock) -> None:
    screen = Terminal()
    progress = Progress(screen, clock=clock)
    clock.now += 10
    progress("denoise", 10, 20)
    clock.now += 10
    progress("frames", 8, 40)
    assert screen.screen[0].endswith("denoise 10/20  50 %  2.0 s each  0:20 left  frames 8/40")


def test_next_stage_leads_when_the_first_is_finished_at_its_own_rate(clock: Clock) -> None:
    screen = Terminal()
    progress = Progress(screen, clock=clock)
    progress("denoise", 1, 2)
    progress("frames", 8, 40)
    clock.now += 100
    progress("denoise", 2, 2)
    clock.now += 2
    progress("frames", 16, 40)
    assert screen.screen[0].endswith("frames 16/40  40 %  4.0/s  0:06 left")


def test_terminal_is_not_rewritten_more_often_than_eyes_can_follow(clock: Clock) -> None:
    screen = Terminal()
    progress = Progress(screen, clock=clock)
    for done in range(1000):
        clock.now += 0.001
        progress("denoise", done, 2000)
    assert 5 <= screen.getvalue().count("\r") <= 11


def test_line_is_wiped_at_the_end(clock: Clock) -> None:
    screen = Terminal()
    with Progress(screen, clock=clock) as progress:
        progress.show("loading engines")
        assert screen.screen == ["loading engines"]
    assert screen.screen == [""]


def test_log_gets_a_line_every_few_seconds_and_at_the_end(clock: Clock) -> None:
    log = io.StringIO()
    with Progress(log, clock=clock) as progress:
        for done in range(1, 13):
            clock.now += 1
            progress("denoise", done, 12)
    assert log.getvalue().splitlines() == [
        "denoise 5/12  41 %  1.0 s each  0:07 left",
        "denoise 10/12  83 %  1.0 s each  0:02 left",
        "denoise 12/12  100 %  1.0 s each",
    ]


def test_stage_of_one_piece_is_merely_done(clock: Clock) -> None:
    log = io.StringIO()
    Progress(log, clock=clock)("audio", 1, 1)
    assert log.getvalue() == "audio done\n"


def test_stage_of_one_piece_is_named_while_it_lasts(clock: Clock) -> None:
    screen = Terminal()
    progress = Progress(screen, clock=clock)
    clock.now += 1
    progress("wait", 0, 1)
    assert screen.screen == ["wait"]
    clock.now += 1
    progress("wait", 1, 1)
    assert screen.screen == ["wait done"]


def test_warning_stands_above_the_line(clock: Clock) -> None:
    screen = Terminal()
    with Progress(screen, clock=clock) as progress:
        progress.show("preparing the photo")
        logging.getLogger("vexpress_rt").warning("no face was found in %s", "face.png")
        progress.show("loading engines")
        assert screen.screen == ["warning: no face was found in face.png", "loading engines"]


def test_quiet_lets_warnings_through_and_nothing_else(clock: Clock) -> None:
    screen = Terminal()
    with Progress(screen, quiet=True, clock=clock) as progress:
        progress.show("loading")
        progress("frames", 1, 1)
        logging.getLogger("vexpress_rt").info("a detail")
        logging.getLogger("vexpress_rt").warning("no face")
    assert screen.getvalue() == "warning: no face\n"


def test_warnings_are_left_to_others_when_the_block_ends() -> None:
    handlers = list(logging.getLogger("vexpress_rt").handlers)
    with Progress(io.StringIO()):
        assert logging.getLogger("vexpress_rt").handlers != handlers
    assert logging.getLogger("vexpress_rt").handlers == handlers


def test_stream_that_breaks_does_not_end_the_work(clock: Clock) -> None:
    class Broken(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with Progress(Broken(), clock=clock) as progress:
        progress.show("loading")
        progress.warn("no face")
        progress("frames", 2, 2)


def test_closed_stream_does_not_end_the_work(clock: Clock) -> None:
    log = io.StringIO()
    with Progress(log, clock=clock) as progress:
        log.close()
        progress.warn("no face")
        progress("frames", 2, 2)


@pytest.mark.parametrize("columns", [100, 70, 40, 10])
def test_line_never_wraps(columns: int, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((columns, 24)))
    monkeypatch.setattr(Terminal, "fileno", lambda self: 2, raising=False)
    screen = Terminal()
    progress = Progress(screen, clock=clock)
    progress("denoise", 1, 9000)
    clock.now += 10
    progress("frames", 100, 9000)
    assert 0 < len(screen.screen[0]) < columns
    assert screen.screen[0].startswith("[") == (columns == 100)  # the bar is what can best be spared


counts = st.tuples(st.integers(0, 30), st.integers(1, 30)).map(lambda pair: (min(pair), max(*pair, 1)))
reports = st.lists(st.tuples(st.sampled_from(["denoise", "frames", "audio"]), counts, st.floats(0, 1e5)), max_size=20)


@given(reports)
def test_whatever_is_reported_fits_a_line_and_leaves_nothing_behind(
    events: list[tuple[str, tuple[int, int], float]],
) -> None:
    screen, clock = Terminal(), Clock()
    with Progress(screen, clock=clock) as progress:
        for stage, (done, total), seconds in events:
            clock.now += seconds
            progress(stage, done, total)
            (row,) = screen.screen
            last = screen.getvalue().rpartition("\r")[2]
            assert row == last.rstrip()
            assert len(row) < 80
    assert screen.screen == [""]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_duration_reads_as_on_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_control_characters_are_told_and_not_obeyed() -> None:
    stream = io.StringIO()
    say("a\x1b[2J\x07\r\u202eb\nc é", stream)
    assert stream.getvalue() == "a\\x1b[2J\\x07\\r\\u202eb\nc é\n"


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", b"\\xe9 \\udcff\n"), ("utf-8", b"\xc3\xa9 \\udcff\n")])
def test_what_a_stream_cannot_encode_comes_out_as_escapes(encoding: str, expected: bytes) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    say("é \udcff", stream)
    assert stream.buffer.getvalue() == expected  # type: ignore[attr-defined]
