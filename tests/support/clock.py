"""A clock for tests of durations: its time passes only where a test says so."""

from __future__ import annotations


class Clock:
    """A stand-in for the module `time` that stands still between calls of `work`.

    Attributes:
        now: Seconds that `perf_counter` returns.
    """

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
