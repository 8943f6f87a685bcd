"""Threads that work for coroutines: one for each object, so that neither the event loop nor other work waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from vexpress_rt.errors import BackendError, InputError
from vexpress_rt.utils.cancellation import cancellable, check_cancelled
from vexpress_rt.utils.memory_errors import THREADS_REMEDY

S = TypeVar("S")
T = TypeVar("T")


class AsyncThread(Generic[S]):
    """A thread that opens an object, calls functions for coroutines one after another, and closes the object.

    The thread starts with the first call. It ends after `close`, or once this object was dropped. It does not refer to
    this object, so that the owner's finalizer can call `end`.

    Args:
        name: Name of the thread.
        open_object: Returns the object; called once, in the thread, by the first `opened`.
        close_object: Closes the object; called in the thread by `close`.
    """

    def __init__(self, name: str, open_object: Callable[[], S], close_object: Callable[[S], object]) -> None:
        self._executor = ThreadPoolExecutor(1, name)
        self._ended = threading.Event()
        self._objects: list[S] = []  # the object, once it is open
        self._open_object, self._close_object = open_object, close_object
        self._opening: asyncio.Future[S] | None = None
        self._closing: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended.is_set()

    @property
    def value(self) -> S:
        """The object.

        Raises:
            InputError: It is not open yet.
        """
        if not self._objects:
            raise InputError(
                "this object is opened by `async with`, or by its first frame: read its attributes afterwards"
            )
        return self._objects[0]

    @property
    def is_open(self) -> bool:
        """Whether the object was opened."""
        return bool(self._objects)

    def end(self) -> None:
        """End the calls without waiting, from any thread: the current one before its next engine call.

        Calls that have not begun raise CancelledError.
        """
        self._ended.set()

    async def opened(self) -> S:
        """Return the object, and open it first if it is not open.

        If the task is cancelled meanwhile, opening ends, and the thread with it.

        Raises:
            InputError: `close` was called.
            BackendError: The system refuses a new thread.
        """
        self._check_open()
        if self._opening is None:
            self._opening = self.submit(partial(_open, self._open_object, self._objects))
        return await result(self._opening, self.end)

    def submit(self, function: Callable[[], T], cancelled: threading.Event | None = None) -> asyncio.Future[T]:
        """Call a function in the thread, after the calls before it.

        Args:
            function: The function. Its engine calls raise CancelledError after `end`, or once `cancelled` is set.
            cancelled: Ends this call.

        Returns:
            Its result, for the running event loop.

        Raises:
            InputError: `close` was called.
            BackendError: The system refuses a new thread.
        """
        self._check_open()
        try:
            call = self._executor.submit(_call, function, self._ended, cancelled)
        except RuntimeError as error:
            raise BackendError(f"the system starts no more threads ({error}): {THREADS_REMEDY}") from error
        future = asyncio.wrap_future(call)
        future.add_done_callback(_retrieve)  # an exception that nobody waits for is not reported
        return future

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in the thread and return its result.

        If the task is cancelled, the call ends before its next engine call, and the task ends after it.

        Args:
            function: The function, as in `submit`.

        Raises:
            BackendError: The system refuses a new thread.
        """
        cancelled = threading.Event()
        return await result(self.submit(function, cancelled), cancelled.set)

    async def close(self) -> None:
        """End the calls, wait for the current one, close the object, and end the thread.

        Closing twice is allowed. If the task is cancelled meanwhile, it ends after that.
        """
        self.end()
        if self._closing is None:
            last = self._executor.submit(_close, self._close_object, self._objects)
            self._closing = asyncio.wrap_future(last)
            self._executor.shutdown(wait=False)
        await result(self._closing, lambda: None)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise InputError("this object was closed: make a new one")


async def run_in_thread(name: str, function: Callable[[], T]) -> T:
    """Call a function in a thread of its own and return its result.

    If the task is cancelled, the call ends before its next engine call, and the task ends after it.

    Args:
        name: Name of the thread.
        function: The function.

    Raises:
        BackendError: The system refuses a new thread.
    """
    thread = AsyncThread(name, function, lambda opened: None)
    try:
        return await thread.opened()
    finally:
        await thread.close()


async def result(future: asyncio.Future[T], cancel: Callable[[], object]) -> T:
    """Wait for the result of a call. If the task is cancelled, call `cancel` and wait for the end of the call.

    Args:
        future: The result of `submit`.
        cancel: Makes the call end early.
    """
    interruption: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])  # unlike `await future`, this does not cancel it
        except asyncio.CancelledError as error:
            interruption = error
            cancel()
    if interruption is not None:
        raise interruption
    return future.result()


def _call(function: Callable[[], T], ended: threading.Event, cancelled: threading.Event | None) -> T:
    with cancellable(lambda: ended.is_set() or (cancelled is not None and cancelled.is_set())):
        check_cancelled()
        return function()


def _open(open_object: Callable[[], S], objects: list[S]) -> S:
    objects.append(open_object())
    return objects[0]


def _close(close_object: Callable[[S], object], objects: list[S]) -> None:
    for opened in objects:
        close_object(opened)


def _retrieve(future: asyncio.Future[T]) -> None:
    if not future.cancelled():
        future.exception()
