"""The loaded engines of a bundle."""

from __future__ import annotations

import logging
import threading

from vexpress_rt import __version__
from vexpress_rt.backends.base import Engine, SharedExecutor
from vexpress_rt.backends.provider import Provider
from vexpress_rt.backends.registry import ProviderSelection
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.errors import BackendError
from vexpress_rt.types import FileStamp
from vexpress_rt.utils.cpus import describe_cpus, limit_threads

_log = logging.getLogger("vexpress_rt")


class Engines:
    """A bundle's engines, each loaded on first use; those on a GPU share streams and activation memory.

    Several threads may use it. Close it once no engine runs any more.

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
        self._loaded: dict[str, Engine] = {}
        self._stamps: dict[str, dict[str, FileStamp | None]] = {}  # of weight files, taken before loading
        self._executor: SharedExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False

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
        """
        with self._lock:
            self._check_open()
            if name not in self._loaded:
                self._stamps[name] = self.bundle.weight_stamps(name)  # before loading, so that no change is missed
                self._loaded[name] = self.selection.loader.load(
                    name, threads=self.threads, executor=self._shared_executor(), share_weights=self._share_weights
                )
            elif self.provider.maps_weights:
                self.bundle.check_unwritten(name, self._stamps[name])
            return self._loaded[name]

    def executor(self) -> SharedExecutor | None:
        """Return the executor that the engines share; None if there is none.

        Raises:
            BackendError: There is no GPU, or `close` was called.
        """
        with self._lock:
            self._check_open()
            return self._shared_executor()

    def close(self) -> None:
        """Free the engines and their executor. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            while self._loaded:
                self._loaded.popitem()[1].close()
            if self._executor is not None:
                self._executor.close()
                self._executor = None

    def describe(self, latents: str) -> str:
        """Return a few lines of text: bundle, size and precision, provider with its reason, device, versions.

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
            "precision": self.selection.loader.describe_precision() or manifest.precision,
            "provider": f"{self.selection.name} ({self.selection.reason})",
            "device": self.provider.describe_device(self._limit, self.selection.device),
            "latents": latents,
            "versions": f"vexpress_rt {__version__}, {self.provider.describe_library(manifest.target)}",
        }
        return "\n".join(f"{name + ':':<10} {text}" for name, text in facts.items())

    def _shared_executor(self) -> SharedExecutor | None:
        """Return the shared executor, made on first use; `_lock` is held."""
        if self._executor is None:
            self._executor = self.provider.make_executor()
        return self._executor

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("this Generator was closed: make a new one")
