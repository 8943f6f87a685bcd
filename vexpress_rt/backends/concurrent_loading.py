"""Loading of several engines side by side, in threads, as far as the free memory allows."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from vexpress_rt.errors import BackendError
from vexpress_rt.utils.cancellation import POLL, cancellable, check_cancelled, is_cancellable
from vexpress_rt.utils.native_calls import start_thread
from vexpress_rt.utils.signals import run_uninterrupted


class ConcurrentLoading:
    """Loads engines in background threads while the caller works with those that are loaded; a context manager.

        with engines.loading(names, first=("vae_encoder", "reference_net")) as loading:
            loading.wait("vae_encoder", "reference_net")
            ...  # the other engines are loaded meanwhile
            loading.wait()

    A load begins while others run if all of them together fit into the free memory; otherwise it waits for one of
    them. Engines that were loaded stay loaded if another one cannot be. Leaving the block drops the loads that have not
    begun, cancels the waits of those that wait for another process, and waits for the others.

    Args:
        load: Loads an engine, unless it is loaded; called with its name, by several threads at once.
        needs: Bytes of memory that loading takes, by engine.
        threads: Number of loads at once. With 1, no thread is started, and `wait` loads engines in the calling thread.
        free: Returns the free memory in bytes; None if that is unknown.
        order: The engines in the order in which loads begin; None for that of `needs`. Of several errors, that of the
            first engine in `needs` is raised in any case, so that it depends neither on time nor on sizes.
    """

    def __init__(
        self,
        load: Callable[[str], object],
        needs: Mapping[str, int],
        threads: int,
        free: Callable[[], int | None],
        order: Sequence[str] | None = None,
    ) -> None:
        self._load = load
        self._needs = needs
        self._free = free
        self._changed = threading.Condition()  # guards everything below
        self._waiting = deque(needs if order is None else order)
        self._running: set[str] = set()
        self._loaded: set[str] = set()
        self._errors: dict[str, BaseException] = {}
        self._ended = False
        self._threads = [threading.Thread(target=self._work, name="vexpress_rt_loading") for _ in range(threads)]

    def __enter__(self) -> Self:
        started: list[threading.Thread] = []
        self._threads, planned = started, self._threads
        if len(planned) > 1:
            for thread in planned:
                try:
                    start_thread(thread)
                except BackendError:  # the system starts no more threads: those that run are enough, or none is needed
                    break
                started.append(thread)
        return self

    def wait(self, *names: str) -> None:
        """Wait until engines are loaded.

        Args:
            names: Names of the engines, keys of `needs`; none waits for all of them.

        Raises:
            VExpressError: The first of these engines that could not be loaded, as `load` raises it: first in the order
                of the names, whichever load ends first.
            CancelledError: The wait was cancelled (`cancellation.cancellable`).
        """
        wanted = names or tuple(self._needs)
        if not self._threads:
            for name in wanted:
                check_cancelled()
                self._load(name)
            return
        interval = POLL if is_cancellable() else None
        with self._changed:
            while not self._changed.wait_for(lambda: self._settled(wanted), interval):
                check_cancelled()
            if error := self._first_error(wanted):
                raise error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._threads:
            run_uninterrupted(self._end)
        self._errors.clear()  # a traceback refers to this object

    def _settled(self, names: Iterable[str]) -> bool:
        """Return whether these engines are loaded, or one of them cannot be."""
        return self._loaded.issuperset(names) or self._first_error(names) is not None

    def _first_error(self, names: Iterable[str]) -> BaseException | None:
        """Return the error of the first of these engines that is not loaded; None if there is none, or none yet."""
        return next((self._errors.get(name) for name in names if name not in self._loaded), None)

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (name := self._take()) is not None:
            error: BaseException | None = None
            try:
                with cancellable(lambda: self._ended):
                    self._load(name)
            except BaseException as raised:
                error = raised
            with self._changed:
                self._running.remove(name)
                if error is None:
                    self._loaded.add(name)
                else:
                    self._errors[name] = error
                self._changed.notify_all()
            del error  # its traceback refers to this frame

    def _take(self) -> str | None:
        """Wait until the next load may begin, and return its engine; None after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._fits(self._waiting[0]))
            if not self._waiting:
                return None
            name = self._waiting.popleft()
            self._running.add(name)
            return name

    def _fits(self, name: str) -> bool:
        """Return whether a load fits into the free memory beside those that run. Alone, every load may begin."""
        if not self._running or not self._needs[name]:
            return True
        free = self._free()
        return free is None or self._needs[name] + sum(self._needs[other] for other in self._running) <= free
