"""What the command line tells: text that does a terminal no harm, and a line of progress."""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, TextIO

BAR = 20  # characters
_REDRAW = 0.1  # seconds between two pictures of the line on a terminal
_REPEAT = 5.0  # seconds between two lines in a log


def open_stream(stream: TextIO | None) -> TextIO:
    """Return `stream`, or a stream that drops all text if it is None (pythonw, a closed descriptor) or closed."""
    return _Dropped() if stream is None or getattr(stream, "closed", False) else stream


class _Dropped(io.StringIO):
    """A text stream that drops all text."""

    def write(self, text: str) -> int:
        return len(text)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # an object with `write` alone, or a closed stream
        return False


def say(text: str, stream: TextIO) -> None:
    """Print `text` and flush; control characters and what the stream cannot encode come out as escapes.

    Names and texts of untrusted files may hold sequences that a terminal obeys. Raises OSError if the stream is closed.
    """
    harmless = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(harmless.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


class Progress:
    """Progress of `Generator.generate`: one line rewritten in place on a terminal, elsewhere a line now and then.

    stream: where to.  quiet: tell nothing but warnings.  clock: seconds.

    Called with stage, done and total. Stages may be interleaved: the first one that is not finished leads, its rate and
    the time it needs are shown; the others are counted behind it. While the block lasts, warnings of the package
    are printed above the line; at its end the line is wiped from a terminal. A stream that fails ends the telling,
    not the work.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._quiet, self._clock = stream, quiet, clock
        self._terminal = _is_terminal(stream)
        self._counts: dict[str, tuple[int, int]] = {}
        self._lead = ""
        self._base = 0  # what was done when the lead began, at _since
        self._since = self._latest = self._drawn = clock()
        self._width = 0  # characters on the terminal's line
        self._warnings = _Warnings(self.warn)

    def __enter__(self) -> Self:
        logging.getLogger("vexpress_rt").addHandler(self._warnings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        logging.getLogger("vexpress_rt").removeHandler(self._warnings)
        self._wipe()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now, (before, _) = self._clock(), self._counts.get(stage, (0, 0))
        self._counts[stage] = done, total
        lead = next((name for name, (count, whole) in self._counts.items() if count < whole), stage)
        if lead != self._lead:
            self._lead = lead
            self._base, self._since = (before, self._latest) if lead == stage else (self._counts[lead][0], now)
        self._latest = now
        finished = lead == stage and done == total
        if finished or now - self._drawn >= (_REDRAW if self._terminal else _REPEAT):
            self._draw(self._line(now))

    def show(self, text: str) -> None:
        """Show what is being done until the next call, where nothing can be counted."""
        self._latest = self._clock()
        self._draw(text)

    def warn(self, text: str) -> None:
        """Print a line that stays, also when quiet."""
        self._wipe()
        with suppress(OSError, ValueError):
            say(f"warning: {text}", self._stream)

    def _line(self, now: float) -> str:
        done, total = self._counts[self._lead]
        if total <= 1:
            return f"{self._lead} done" if done else self._lead
        parts = [f"{self._lead} {done}/{total}", f"{100 * done // total} %"]
        elapsed, passed = now - self._since, done - self._base
        if elapsed > 0 and passed > 0:
            parts.append(f"{passed / elapsed:.1f}/s" if passed > elapsed else f"{elapsed / passed:.1f} s each")
            if done < total:
                parts.append(f"{duration(elapsed / passed * (total - done))} left")
        others = [(name, *counts) for name, counts in self._counts.items() if name != self._lead]
        parts += [f"{name} {count}/{whole}" for name, count, whole in others if count < whole]
        line = "  ".join(parts)
        if self._terminal and len(line) + BAR + 4 < _columns(self._stream):
            filled = BAR * done // total
            return f"[{'#' * filled}{'.' * (BAR - filled)}]  {line}"
        return line

    def _draw(self, line: str) -> None:
        self._drawn = self._clock()
        if self._quiet:
            return
        if self._terminal:
            line = line[: _columns(self._stream) - 1]  # a line that wraps could not be rewritten
            self._write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._write(line + "\n")

    def _wipe(self) -> None:
        if self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (AttributeError, OSError, ValueError):  # ValueError: the stream was closed in this process
            self._quiet, self._width = True, 0


class _Warnings(logging.Handler):
    """Passes warnings on as text."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss, rounded."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (AttributeError, OSError, ValueError):
        return 80
