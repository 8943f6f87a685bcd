"""A progress bar for terminals and notebooks, to pass as `progress=`."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Self, TextIO

from tqdm.std import tqdm

UPDATE_INTERVAL = 0.1  # seconds between two updates of a bar
_COLUMNS = 80  # where the width of the terminal is unknown


class ProgressBar:
    """A `tqdm` bar that is a progress callback.

        with ProgressBar() as progress:
            generator.generate("portrait.png", "speech.wav", output="video.mp4", progress=progress)

    It is called with the stage, the steps done and the total steps, from any thread. Stages can be interleaved: the bar
    shows the first unfinished one with its rate and remaining time, and counts the others behind it. It is removed
    when it is closed.

    Args:
        file: The stream of the bar. None for stderr, or for the output of the cell in a notebook (with ipywidgets).
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._bar: Any = None  # tqdm has no type annotations
        self._lock = threading.RLock()
        self._counts: dict[str, tuple[int, int]] = {}
        self._lead = ""
        self._latest = time.time()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of the `total` steps of a stage are done."""
        with self._lock:
            now, before = time.time(), self._counts.get(stage, (0, 0))[0]
            self._counts[stage] = done, total
            lead = next((name for name, (count, whole) in self._counts.items() if count < whole), stage)
            count, whole = self._counts[lead]
            bar = self._opened()
            if lead != self._lead:
                self._restart(lead, whole, *((before, self._latest) if lead == stage else (count, now)))
            self._lead, self._latest = lead, now
            bar.n, bar.total = count, whole if whole > 1 else None
            if whole <= 1:
                bar.set_description_str(f"{lead} done" if count else lead, refresh=False)
            bar.set_postfix_str(self._others(lead), refresh=False)
            if count == whole or now - bar.last_print_t >= bar.mininterval:
                bar.last_print_t = now
                bar.refresh()

    def show(self, text: str) -> None:
        """Show a line of text until the next call, for work that has no countable steps."""
        with self._lock:
            self._lead = ""
            self._latest = time.time()
            bar = self._opened()
            bar.bar_format, bar.total = "{desc}", None
            bar.set_description_str(text, refresh=False)
            bar.last_print_t = self._latest
            bar.refresh()

    def write(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        with self._lock:
            bar = self._opened()
            if self._file is None:
                bar.write(text)
                return
            bar.clear()
            print(text, file=self._file, flush=True)
            bar.refresh()

    def close(self) -> None:
        """Remove the bar. Closing twice is allowed."""
        with self._lock:
            bar, self._bar = self._bar, None
            if bar is None:
                return
            try:
                bar.clear()
                bar.close()
            finally:
                bar.disable = True  # if the stream failed, `__del__` would write to it again

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _opened(self) -> Any:
        if self._bar is None:
            self._bar = self._make()
        self._bar.ncols = _columns(self._file) if self._file is not None else None
        return self._bar

    def _make(self) -> Any:
        options = {"leave": False, "smoothing": 0, "mininterval": UPDATE_INTERVAL, "bar_format": "{desc}"}
        if self._file is None:
            from tqdm.auto import tqdm as automatic  # takes time to import

            bar = automatic(dynamic_ncols=True, **options)
        else:
            bar = Bar(file=self._file, position=0, delay=1e-9, **options)  # with a delay, nothing is written yet
        bar.last_print_t = 0
        return bar

    def _restart(self, stage: str, total: int, base: int, since: float) -> None:
        """Begin to show another stage, whose rate counts from `base` steps at the time `since`."""
        bar = self._bar
        bar.bar_format = None if total > 1 else "{desc}"
        bar.set_description(stage, refresh=False)
        if self._file is None:
            bar.reset(total)  # a notebook's bar keeps the total elsewhere as well
        bar.initial, bar.start_t = base, since

    def _others(self, lead: str) -> str:
        others = [(name, *counts) for name, counts in self._counts.items() if name != lead]
        return ", ".join(f"{name} {count}/{whole}" for name, count, whole in others if count < whole)


class Bar(tqdm):  # type: ignore[misc] # of type Any
    """A `tqdm` bar without a monitoring thread and without tqdm's lock, which stays locked if a stream fails.

    `ProgressBar` has a lock of its own.
    """

    monitor_interval = 0


class _NoLock:
    """A lock that is always free."""

    def acquire(self, *arguments: object, **options: object) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


Bar.set_lock(_NoLock())


def _columns(file: TextIO) -> int:
    """Return the width that a line can have without wrapping."""
    try:
        return (os.get_terminal_size(file.fileno()).columns or _COLUMNS) - 1
    except (AttributeError, OSError, ValueError):
        return _COLUMNS - 1
