"""A worker thread with a queue, which runs while the caller computes the next item."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from vexpress_rt.utils.cancellation import POLL, check_cancelled, is_cancellable
from vexpress_rt.utils.native_calls import start_thread
from vexpress_rt.utils.signals import run_uninterrupted

T = TypeVar("T")


class Worker(Generic[T]):
    """A thread that calls a function with one item after another, in order.

        with Worker(writer.write) as write:
            for frame in frames:
                write(frame)

    Leaving the block waits for all items; leaving it by an exception drops the queued ones. In both cases the thread
    has ended afterwards: Ctrl-C and `cancellation.cancellable` end the wait for the queue, but not for the current
    item. After an exception of the function, the other items are dropped, and the exception is raised by a later call
    or at the end of the block.

    The thread is a daemon if the caller's is. An executor of `concurrent.futures` would not work: it refuses work
    as soon as the main thread has ended, even while other threads still generate videos.

    Args:
        function: Called with each item. An item must not be changed after it was passed.
        ahead: Number of items that can wait. With more, the caller waits, so that memory does not grow.

    Raises:
        BackendError: The system refuses a new thread.
    """

    def __init__(self, function: Callable[[T], object], ahead: int = 8) -> None:
        self._function = function
        self._ahead = ahead
        self._changed = threading.Condition()
        self._waiting: deque[T] = deque()
        self._working = self._failed = self._leaving = False
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._work, name="vexpress_rt_worker")
        start_thread(self._thread)
        return self

    def __call__(self, item: T) -> None:
        """Append an item to the queue. Raises the exception of the function for an earlier item."""
        with self._changed:
            if not self._failed:
                self._waiting.append(item)
                self._changed.notify_all()
            self._wait_for(self._has_room)
            self._raise()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._changed:
                    self._wait_for(lambda: not self._unfinished())
                    self._raise()
        finally:
            run_uninterrupted(self._end)  # next, the caller closes objects that the function uses

    def _wait_for(self, condition: Callable[[], object]) -> None:
        """Wait for a condition; raise CancelledError if the work is cancelled meanwhile."""
        interval = POLL if is_cancellable() else None
        while not self._changed.wait_for(condition, interval):
            check_cancelled()

    def _end(self) -> None:
        with self._changed:
            self._leaving = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def _unfinished(self) -> int:
        return len(self._waiting) + self._working

    def _has_room(self) -> bool:
        idle = self._waiting and not self._working  # the thread is about to take the item
        return not idle and self._unfinished() <= self._ahead

    def _raise(self) -> None:
        """Raise the exception of the function, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        while self._take():
            try:
                self._function(self._item)
            except BaseException as error:
                with self._changed:
                    self._error, self._failed = error, True
                    self._waiting.clear()
            finally:
                with self._changed:
                    del self._item
                    self._working = False
                    self._changed.notify_all()

    def _take(self) -> bool:
        """Wait for the next item; return False at the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._leaving)
            if self._waiting:
                self._item = self._waiting.popleft()
                self._working = True
                self._changed.notify_all()
            return self._working
