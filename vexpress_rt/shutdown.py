"""An orderly end of a process in which a daemon thread still computes.

When the main thread has ended, Python ends daemon threads where they next ask for the interpreter's lock: by
pthread_exit, before Python 3.14. A thread that comes back from C++ (ONNX Runtime, OpenCV, our own module) asks for it
in a destructor, which must not be left that way: the C++ library ends the process with SIGABRT. So such calls are
counted, and the interpreter's exit waits for those that run and lets no more begin.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from vexpress_rt.errors import BackendError

PATIENCE = 60.0  # seconds that the exit waits at most: a GPU that hangs may not keep a process for ever


class _Calls:
    """The calls that run.  running: thread and what cuts it short, by call.  ended_by: the thread that ends Python.
    cleanups: what it calls last.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.running: dict[object, tuple[int, Callable[[], object] | None]] = {}
        self.ended_by: int | None = None
        self.cleanups: dict[object, Callable[[], object]] = {}

    def refused(self) -> bool:
        """Whether this thread is to end instead."""
        return self.ended_by not in (None, threading.get_ident())

    def others(self) -> list[Callable[[], object] | None]:
        """What cuts short the calls of other threads."""
        return [cancel for thread, cancel in self.running.values() if thread != threading.get_ident()]


_calls = _Calls()


@contextmanager
def native_call(cancel: Callable[[], object] | None = None) -> Iterator[None]:
    """A call into C++ that releases the interpreter's lock. cancel: cuts it short; called from another thread.

    Raises SystemExit, with which a thread ends without a word, before or after the call in a process that ends.
    """
    calls, call = _calls, object()
    with calls.changed:
        if calls.refused():
            raise SystemExit
        calls.running[call] = threading.get_ident(), cancel
    try:
        yield
    finally:
        with calls.changed:
            del calls.running[call]
            calls.changed.notify_all()
            if calls.refused():
                raise SystemExit  # in the place of what the cut-short call raised


@contextmanager
def at_end(cleanup: Callable[[], object]) -> Iterator[None]:
    """Call `cleanup` if the process ends while another thread is inside the block, once that computes no more."""
    calls, key = _calls, object()
    calls.cleanups[key] = cleanup
    try:
        yield
    finally:
        calls.cleanups.pop(key, None)


def start(thread: threading.Thread) -> None:
    """Start a thread. Raises BackendError if the system gives none, SystemExit while the process ends."""
    try:
        thread.start()
    except RuntimeError as error:
        if not threading.main_thread().is_alive():
            raise SystemExit from error
        raise BackendError(
            f"the system starts no more threads ({error}): raise the limit of memory (ulimit -v) or of processes "
            "(ulimit -u, or the container's), or close other programs"
        ) from error


def _end() -> None:
    """Cut short the calls of other threads, and wait for them."""
    with _calls.changed:
        _calls.ended_by = threading.get_ident()
        for cancel in _calls.others():
            if cancel is not None:
                cancel()
        _calls.changed.wait_for(lambda: not _calls.others(), PATIENCE)
    for cleanup in list(_calls.cleanups.values()):
        with suppress(OSError):
            cleanup()


def _forget() -> None:
    """In a process that was forked: the threads that were in calls are not in it."""
    global _calls
    _calls = _Calls()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
