"""The loaded engines of a bundle."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from vexpress_rt import __version__
from vexpress_rt.backends.base import Array, Engine, SharedExecutor, Tensor
from vexpress_rt.backends.concurrent_loading import ConcurrentLoading
from vexpress_rt.backends.provider import Provider
from vexpress_rt.backends.registry import ProviderSelection
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.errors import BackendError
from vexpress_rt.types import FileStamp
from vexpress_rt.utils.cancellation import check_cancelled
from vexpress_rt.utils.cpus import describe_cpus, limit_threads
from vexpress_rt.utils.memory_budget import free_memory

_log = logging.getLogger("vexpress_rt")


_FORKED = (
    "this Generator loaded its engines before this process was forked, and their threads are in the parent process "
    "alone: make a new Generator in this process, or start processes with multiprocessing.get_context('spawn')"
)


class _GuardedEngine:
    """An engine whose calls do not begin in a forked process, nor after the work was cancelled.

    See `cancellation.cancellable`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._process = os.getpid()
        self.spec = engine.spec
        self.close = engine.close

    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool = False) -> Any:
        """See `Engine.run`. Raises CancelledError."""
        self._check()
        return self._engine.run(inputs, keep_on_device=keep_on_device)

    def run_positional(self, array: Array) -> list[Array]:
        """See `Engine.run_positional`. Raises CancelledError."""
        self._check()
        return self._engine.run_positional(array)

    def _check(self) -> None:
        if os.getpid() != self._process:
            raise BackendError(_FORKED)
        check_cancelled()


class _Slot:
    """The place of an engine. A thread holds `lock` while it loads the engine."""

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock
        self.engine: Engine | None = None
        self.stamps: dict[str, FileStamp | None] = {}  # of weight files, taken before loading


class Engines:
    """A bundle's engines, each loaded on first use; those on a GPU share streams and activation memory.

    Several threads may use it. Engines are loaded side by side if the provider can (`Provider.loading_memory`), and
    otherwise one after another. Close it once no engine runs any more.

    Args:
        bundle: The bundle.
        selection: The provider that runs the bundle.
        threads: CPU threads. A number above `cpus.usable_cpus()` is lowered to it, with a warning. None for one per
            core.
        share_weights: Let engines map the weights that they have in common, if the provider can.
    """

    def __init__(
        self, bundle: Bundle, selection: ProviderSelection, threads: int | None, *, share_weights: bool = False
    ) -> None:
        self.bundle = bundle
        self.selection = selection
        self._limit = limit_threads(threads)
        self.threads = threads  # as requested: the backends and the median filter apply the limit themselves
        if self._limit.lowered:
            _log.warning(
                "threads is %s, but this process may use %s: using %s, because more threads would only wait",
                self._limit.requested, describe_cpus(self._limit.usable), self._limit.threads,
            )  # fmt: skip
        self._share_weights = share_weights
        self._lock = threading.Lock()  # guards what follows; taken after a slot's lock, never before one
        self._slots: dict[str, _Slot] = {}
        self._serial_lock = None if selection.provider.loading_memory else threading.Lock()
        self._executor: SharedExecutor | None = None
        self._closed = self._forked = False
        _all_engines.add(self)

    @property
    def provider(self) -> Provider:
        """The provider that runs the engines."""
        return self.selection.provider

    def get(self, name: str) -> Engine:
        """Return the engine `name`, and load it on first use.

        Args:
            name: The engine's name in the bundle.

        Raises:
            BundleError: The bundle lacks the engine, its files are damaged, or its weight files were written to after
                they were mapped.
            BackendError: The engine cannot be loaded, or `close` was called.

        Calls of the engine raise CancelledError in a `cancellation.cancellable` block that was cancelled.
        """
        slot = self._slot(name)
        with slot.lock:
            executor = self.executor()
            if slot.engine is None:
                slot.stamps = self.bundle.weight_stamps(name)  # before loading, so that no change is missed
                slot.engine = _GuardedEngine(
                    self.selection.loader.load(
                        name, threads=self.threads, executor=executor, share_weights=self._share_weights
                    )
                )
            elif self.provider.maps_weights:
                self.bundle.check_unwritten(name, slot.stamps)
            return slot.engine

    def loading(self, names: Iterable[str], *, first: Iterable[str] = ()) -> ConcurrentLoading:
        """Return a context manager that loads engines, side by side if the provider can and the memory allows it.

        Args:
            names: Names of the engines; the largest are loaded first.
            first: Names of engines to load before these.

        Raises:
            BundleNotFoundError: The bundle lacks an engine. Other errors are those of `get`, raised by `wait`; of
                several, that of the engine named first.
        """
        ahead = tuple(first)
        sizes = {name: self.bundle.engine_size(name) for name in (*ahead, *names)}
        order = (*ahead, *sorted((name for name in sizes if name not in ahead), key=lambda name: -sizes[name]))
        with self._lock:
            missing = {name for name in order if name not in self._slots or self._slots[name].engine is None}
        factor = self.provider.loading_memory
        needs = {name: round(size * (factor or 0)) if name in missing else 0 for name, size in sizes.items()}
        threads = min(self._limit.threads, len(missing)) if factor else 1
        return ConcurrentLoading(self.get, needs, threads, free_memory, order)

    def executor(self) -> SharedExecutor | None:
        """Return the executor that the engines share; None if there is none.

        Raises:
            BackendError: There is no GPU, or `close` was called.
        """
        with self._lock:
            self._check_open()
            if self._executor is None:
                self._executor = self.provider.make_executor()
            return self._executor

    def close(self) -> None:
        """Free the engines and their executor, after the loads in progress. Closing twice is allowed.

        In a forked process, engines of the parent process are left as they are.
        """
        with self._lock:
            self._closed = True
            slots = list(self._slots.values())
        for slot in reversed(slots):
            with slot.lock:
                if slot.engine is not None:
                    slot.engine.close()
                    slot.engine = None
        with self._lock:
            if self._executor is not None:
                self._executor.close()
                self._executor = None

    def describe(self, latents: str) -> str:
        """Return a few lines of text: bundle, size, guiders, precision, provider with its reason, device, versions.

        Args:
            latents: Text that tells where latents are kept between engines.

        Raises:
            BackendError: The device or the library no longer responds.
        """
        manifest, shape = self.bundle.manifest, self.bundle.manifest.shape
        plans = self.selection.loader.describe_plans()
        facts = {
            "bundle": f"{self.bundle.folder}, identity {self.bundle.identity}",
            "built": f"for {manifest.target}" + (f", plans for {plans}" if plans else ""),
            "size": f"{shape.height} x {shape.width} pixels (height x width), windows of {shape.frames} frames",
            "guiders": ", ".join(manifest.model.guiders) or "none",
            "precision": self.selection.loader.describe_precision() or manifest.precision,
            "provider": f"{self.selection.name} ({self.selection.reason})",
            "device": self.provider.describe_device(self._limit, self.selection.device),
            "latents": latents,
            "versions": f"vexpress_rt {__version__}, {self.provider.describe_library(manifest.target)}",
        }
        if manifest.training is not None:
            facts["weights"] = manifest.training.describe()
        return "\n".join(f"{name + ':':<10} {text}" for name, text in facts.items())

    def _slot(self, name: str) -> _Slot:
        """Return the slot of an engine."""
        with self._lock:
            self._check_open()
            if name not in self._slots:
                self._slots[name] = _Slot(self._serial_lock or threading.Lock())
            return self._slots[name]

    def _check_open(self) -> None:
        if self._forked:
            raise BackendError(_FORKED)
        if self._closed:
            raise BackendError("this Generator was closed: make a new one")

    def leave_to_parent(self) -> None:
        """Forget the engines in a forked process, where freeing them would wait for threads that do not exist there.

        If none was loaded, they can be loaded in this process.
        """
        self._lock = threading.Lock()  # another thread may have held the old ones
        left = [self._executor, *(slot.engine for slot in self._slots.values())]
        loading = any(slot.lock.locked() for slot in self._slots.values())
        self._forked = self._forked or loading or any(one is not None for one in left)
        for one in left:
            if one is not None:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))  # never freed, also not at exit
        self._serial_lock = self._serial_lock and threading.Lock()
        self._slots, self._executor = {}, None


_all_engines: weakref.WeakSet[Engines] = weakref.WeakSet()


def _after_fork() -> None:
    for engines in list(_all_engines):
        engines.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
