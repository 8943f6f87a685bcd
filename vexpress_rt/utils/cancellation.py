"""Cancellation of work whose result is no longer needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from vexpress_rt.config import brief
from vexpress_rt.errors import CancelledError, ConfigError

POLL = 0.05  # seconds between two checks of a wait that nothing wakes

_cancelled: ContextVar[Callable[[], bool] | None] = ContextVar("cancelled", default=None)


class CancelToken(Protocol):
    """An object that tells whether work is cancelled: a `threading.Event`, or any other with `is_set`.

    It is asked from the threads that work, many times a second.
    """

    def is_set(self) -> bool:
        """Return whether the work is cancelled. Once it is, it stays so."""
        ...


def check_cancel(cancel: object) -> CancelToken | None:
    """Return a cancel token, or None.

    Args:
        cancel: The value found.

    Raises:
        ConfigError: `cancel` is neither None nor an object with `is_set`.
    """
    if cancel is None or callable(getattr(cancel, "is_set", None)):
        return cancel  # type: ignore[return-value] # checked by its method
    raise ConfigError(f"cancel is {brief(cancel)}; expected a threading.Event, another object with is_set(), or None")


@contextmanager
def cancellable(cancelled: Callable[[], bool]) -> Iterator[None]:
    """Let `check_cancelled` end the work of the block, in this thread. Blocks can be nested; each can be cancelled.

    Args:
        cancelled: Returns whether the result of the block is no longer needed.
    """
    outer = _cancelled.get()
    token = _cancelled.set(cancelled if outer is None else lambda: outer() or cancelled())
    try:
        yield
    finally:
        _cancelled.reset(token)


def is_cancellable() -> bool:
    """Return whether this thread is inside a `cancellable` block."""
    return _cancelled.get() is not None


def check_cancelled() -> None:
    """End work that is no longer needed; call this between its steps, and repeatedly while waiting.

    Raises:
        CancelledError: An enclosing `cancellable` block of this thread is cancelled.
    """
    cancelled = _cancelled.get()
    if cancelled is not None and cancelled():
        raise CancelledError("the work was cancelled, because its result is no longer needed")
