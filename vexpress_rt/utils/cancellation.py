"""Cancellation of waits in a background thread whose result is no longer needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from vexpress_rt.errors import BackendError

_cancelled: ContextVar[Callable[[], bool] | None] = ContextVar("cancelled", default=None)


@contextmanager
def cancellable(cancelled: Callable[[], bool]) -> Iterator[None]:
    """Let `check_cancelled` end the waits of the block, in this thread.

    Args:
        cancelled: Returns whether the result of the block is no longer needed.
    """
    token = _cancelled.set(cancelled)
    try:
        yield
    finally:
        _cancelled.reset(token)


def check_cancelled() -> None:
    """End a wait that is no longer needed; call this repeatedly while waiting for another process.

    Raises:
        BackendError: The enclosing `cancellable` block of this thread is cancelled.
    """
    cancelled = _cancelled.get()
    if cancelled is not None and cancelled():
        raise BackendError("the wait for another process was cancelled, because its result is no longer needed")
