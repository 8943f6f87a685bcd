"""Seconds by stage, also when stages are interleaved."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """A sum of wall-clock seconds by stage. The time of an inner stage does not count for the outer one.

    Attributes:
        seconds: Seconds by stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[str] = []
        self._start = self._since = time.perf_counter()

    def finish(self) -> dict[str, float]:
        """Return the seconds by stage, and `total` since the stopwatch was created."""
        return {**self.seconds, "total": time.perf_counter() - self._start}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block for the stage `name`.

        Args:
            name: Name of the stage, a key of the timings.
        """
        self._switch()
        self._stack.append(name)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    def each(self, name: str, items: Iterable[T]) -> Generator[T, None, None]:
        """Yield items, and count the time of producing them for a stage.

        Args:
            name: The stage.
            items: The items.
        """
        source = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] = self.seconds.get(self._stack[-1], 0.0) + now - self._since
        self._since = now
