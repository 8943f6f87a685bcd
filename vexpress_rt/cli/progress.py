"""Progress and warnings that a command prints on stderr."""

from __future__ import annotations

import logging
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TextIO

from vexpress_rt.cli.terminal import is_terminal, say
from vexpress_rt.utils.command_entry import escape
from vexpress_rt.utils.progress import Bar, ProgressBar

LOG_INTERVAL = 5.0  # seconds between two lines in a log


class CommandProgress:
    """The progress callback of a command: a bar on a terminal, a line every few seconds elsewhere.

    Inside the `with` block, warnings of the package are printed as well, above the bar. If the stream
    fails, printing ends and the work goes on.

    Args:
        stream: The stream to print to.
        quiet: Print only warnings.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream, self._quiet = stream, quiet
        self._bar = ProgressBar(stream) if is_terminal(stream) else _ProgressLog(stream)
        self._warnings = _Warnings(self)

    def __enter__(self) -> Self:
        logging.getLogger("vexpress_rt").addHandler(self._warnings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        logging.getLogger("vexpress_rt").removeHandler(self._warnings)
        with suppress(OSError, ValueError):
            self._bar.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of the `total` steps of a stage are done."""
        if not self._quiet:
            try:
                self._bar(stage, done, total)
            except (AttributeError, OSError, ValueError):  # ValueError: the stream was closed in this process
                self._quiet = True

    def show(self, text: str) -> None:
        """Show a line of text until the next call, for work that has no countable steps."""
        if not self._quiet:
            try:
                self._bar.show(text)
            except (AttributeError, OSError, ValueError):
                self._quiet = True

    def warn(self, text: str) -> None:
        """Print a line that stays, also when quiet."""
        line = f"warning: {escape(text, self._stream)}"
        with suppress(AttributeError, OSError, ValueError):
            if self._quiet:
                say(line, self._stream)
            else:
                self._bar.write(line)


class _ProgressLog(ProgressBar):
    """Progress as lines of a log."""

    def _make(self) -> Any:
        line = _LogLine(file=self._file, mininterval=LOG_INTERVAL, bar_format="{desc}", smoothing=0, delay=1e-9)
        line.last_print_t = self._latest
        return line

    def write(self, text: str) -> None:
        print(text, file=self._file, flush=True)

    def _opened(self) -> Any:
        bar = super()._opened()
        bar.ncols = 0  # numbers without a bar
        return bar


class _LogLine(Bar):
    """A bar that prints a line when it is refreshed."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if not msg:
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return True

    def clear(self, nolock: bool = False) -> None:
        pass

    def close(self) -> None:
        self.disable = True
        self._decr_instances(self)


class _Warnings(logging.Handler):
    """Prints warnings through a command's progress."""

    def __init__(self, progress: CommandProgress) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.warn(record.getMessage())
