"""Ctrl-C and its like, where they may not end the process at once.

While a C++ library calls back: an exception that leaves a callback there ends the process. And where something partial
would be left behind.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def signals_deferred() -> Iterator[Callable[[], bool]]:
    """Signals that Python handles (SIGINT, SIGTERM, SIGHUP) wait until the end of the block, and then take effect.

    Gives a function that says whether one came, so that long work can stop early. Signals that the system handles do
    what they always do. Only the main thread gets signals: in others, nothing changes.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    previous: dict[int, Callable[[int, FrameType | None], object]] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # no SIGHUP on Windows
            handler = None if number is None else signal.getsignal(number)
            if number is not None and callable(handler):
                previous[number] = handler
                signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


class _Terminated(BaseException):
    """Unwinds to the end of `cleaned_up_first`."""


@contextmanager
def cleaned_up_first() -> Iterator[None]:
    """SIGTERM and SIGHUP, where the system handles them, end the process at the end of the block and not at once.

    Meanwhile they raise an exception, so that what lies between is cleaned up. Handlers of others are left alone.
    """

    def unwind(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:  # one that comes again does not cut the cleaning up short
            raise _Terminated

    came: list[int] = []
    ours: list[int] = []
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                ours.append(number)
                signal.signal(number, unwind)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if came:
            signal.raise_signal(came[0])
