"""Work that goes on in a thread of its own while the caller makes the next piece of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

from vexpress_rt.deferral import signals_deferred

T = TypeVar("T")


class Background(Generic[T]):
    """Calls `function` with one item after another, in order, in a thread of its own.

    with Background(writer.write) as write:
        for frame in frames:
            write(frame)

    ahead: items that may wait; with more, the caller does, so that memory does not grow. An item belongs to the thread
    until it is done with. What `function` raises comes out of a later call, or at the end of the block, and nothing is
    done after it. Leaving the block normally waits for all items; leaving it by an exception drops those that wait.
    In both cases the thread has ended then: a Ctrl-C ends the wait for the items, but not that for the one in work.
    """

    def __init__(self, function: Callable[[T], object], ahead: int = 8) -> None:
        self._function = function
        self._ahead = ahead
        self._waiting: deque[Future[object]] = deque()
        self._failed = False

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, "vexpress_rt")
        return self

    def __call__(self, item: T) -> None:
        """Let `item` join the queue. Raises what `function` raised for an earlier one."""
        self._waiting.append(self._thread.submit(self._work, item))
        while len(self._waiting) > self._ahead or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            with signals_deferred():  # what the thread works with is taken apart next
                self._thread.shutdown(wait=True, cancel_futures=True)

    def _work(self, item: T) -> None:
        if self._failed:
            return
        try:
            self._function(item)
        except BaseException:
            self._failed = True
            raise
