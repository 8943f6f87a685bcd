"""Interpreter exit while daemon threads are inside native calls.

After the main thread has ended, Python before 3.14 ends a daemon thread with pthread_exit when it next acquires the
GIL. A thread that returns from C++ (ONNX Runtime, OpenCV, our own module) acquires the GIL in a destructor. Unwinding
out of a destructor makes the C++ library abort the process (SIGABRT). So native calls are counted: interpreter exit
waits for the running ones and refuses new ones.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from vexpress_rt.errors import BackendError
from vexpress_rt.utils.memory_errors import THREADS_REMEDY

EXIT_TIMEOUT = 60.0  # seconds that interpreter exit waits at most, for the case that a GPU hangs


class _Calls:
    """The native calls in progress.

    Attributes:
        changed: Guards the other attributes, and is notified when a call ends.
        running: Thread identifier and cancel function of each call.
        exiting: Identifier of the thread in which the interpreter exits; None before that.
        cleanups: Functions to call at exit.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.running: dict[object, tuple[int, Callable[[], object] | None]] = {}
        self.exiting: int | None = None
        self.cleanups: dict[object, Callable[[], object]] = {}

    def refused(self) -> bool:
        """Return whether the interpreter exits in another thread, so that this one must end."""
        return self.exiting not in (None, threading.get_ident())

    def others(self) -> list[Callable[[], object] | None]:
        """Return the cancel functions of the calls of other threads."""
        return [cancel for thread, cancel in self.running.values() if thread != threading.get_ident()]


_calls = _Calls()


@contextmanager
def native_call(cancel: Callable[[], object] | None = None) -> Iterator[None]:
    """Mark the block as a native call that releases the GIL.

    Args:
        cancel: Makes the call return early. Interpreter exit calls it from another thread.

    Raises:
        SystemExit: The interpreter is exiting. Raised before or after the call; it ends the thread silently.
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
                raise SystemExit  # replaces the exception of the cancelled call


@contextmanager
def cleanup_at_exit(cleanup: Callable[[], object]) -> Iterator[None]:
    """Call `cleanup` if the interpreter exits while this thread is inside the block, after its native call ended."""
    calls, key = _calls, object()
    calls.cleanups[key] = cleanup
    try:
        yield
    finally:
        calls.cleanups.pop(key, None)


def start_thread(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        BackendError: The system refuses a new thread.
        SystemExit: The interpreter is exiting.
    """
    try:
        thread.start()
    except RuntimeError as error:
        if not threading.main_thread().is_alive():
            raise SystemExit from error
        raise BackendError(f"the system starts no more threads ({error}): {THREADS_REMEDY}") from error


def _exit() -> None:
    """Cancel the native calls of other threads, wait for them, and clean up."""
    with _calls.changed:
        _calls.exiting = threading.get_ident()
        for cancel in _calls.others():
            if cancel is not None:
                cancel()
        _calls.changed.wait_for(lambda: not _calls.others(), EXIT_TIMEOUT)
    for cleanup in list(_calls.cleanups.values()):
        with suppress(OSError):
            cleanup()


def _forget() -> None:
    """Forget all calls in a forked process, which has none of the threads that were inside them."""
    global _calls
    _calls = _Calls()


atexit.register(_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
