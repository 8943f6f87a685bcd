"""The interface of a provider: a library that runs a bundle's engines on a kind of device.

To add one: write a subclass of `Provider` in a folder of its own under `vexpress_rt/backends/`, and name it in one line
of `vexpress_rt/backends/registry.py`.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import ClassVar

from vexpress_rt.backends.base import Engine, SharedExecutor
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.manifest import BUILD_COMMAND
from vexpress_rt.bundle.target import COMPILED_TARGETS
from vexpress_rt.errors import BundleDamagedError, ConfigError
from vexpress_rt.utils.cpus import ThreadLimit
from vexpress_rt.utils.project_links import EXPORTER

Progress = Callable[[str, int, int], object]  # stage, done, total; called from any thread


class EngineLoader(ABC):
    """A loader of one bundle's engines for one provider; made by `Provider.open`."""

    @abstractmethod
    def load(
        self,
        name: str,
        *,
        threads: int | None = None,
        executor: SharedExecutor | None = None,
        share_weights: bool = False,
    ) -> Engine:
        """Load the engine `name`.

        Args:
            name: The engine's name in the bundle.
            threads: CPU threads of one operator; None for one per core.
            executor: The executor that all engines share; None creates one for this engine.
            share_weights: Map weights that several engines have in common, if the provider can.

        Raises:
            BundleError: The bundle lacks the engine, or its files are damaged or change while they are loaded.
            BackendError: The library refuses the engine, or memory runs out.
        """

    def describe_plans(self) -> str:
        """Return the machines that the engines were compiled for as text; empty if nothing was compiled."""
        return ""

    def describe_precision(self) -> str:
        """Return the precision that engines compute in as text; empty if it is the bundle's."""
        return ""


class Provider(ABC):
    """A library that runs engines, on a kind of device. Instances hold no state.

    Attributes:
        name: The name that `provider=` and `--provider` accept.
        advantage: Why "auto" prefers this provider where it can be used, as text.
        targets: Targets of the bundles that are built for this provider. "auto" warns about other bundles.
        precisions: Precisions of the bundles that it runs.
        devices: Names that `device=` and `--device` accept, the default first; empty for a provider that runs on one
            kind of device.
        computes_in: Precisions that `precision=` and `--precision` accept for bundles of every precision, the default
            first; empty for a provider that always computes in the bundle's precision.
        on_gpu: Whether engines run on GPU 0.
        maps_weights: Whether engines read the bundle's weight files while they run, so that writing to those files
            would change results.
        tunable: Whether it runs engines on the CPU in the bundle's own precision, so that `vexpress-rt tune` compares
            it with the others that do.
        loading_memory: The most memory that loading an engine takes, as a multiple of the size of its files. Several
            engines are loaded at once as far as that fits into the free memory. None: they are loaded one after
            another.
    """

    name: ClassVar[str]
    advantage: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]]
    devices: ClassVar[tuple[str, ...]] = ()
    computes_in: ClassVar[tuple[str, ...]] = ()
    on_gpu: ClassVar[bool] = False
    maps_weights: ClassVar[bool] = False
    tunable: ClassVar[bool] = False
    loading_memory: ClassVar[float | None] = None

    @abstractmethod
    def open(
        self,
        bundle: Bundle,
        *,
        device: str | None = None,
        precision: str | None = None,
        rebuild: str = "auto",
        progress: Progress | None = None,
        supported_only: bool = False,
    ) -> EngineLoader:
        """Check that this machine can run a bundle, and return a loader of its engines.

        Args:
            bundle: The bundle. It is only read, unless `rebuild` allows more.
            device: One of `devices`; None for the first of them.
            precision: One of `computes_in`, or the bundle's precision if that is empty; None for the default.
            rebuild: One of `config.REBUILD`: whether engines may be compiled now for this machine.
            progress: Called while engines are compiled.
            supported_only: Refuse devices that the library may run on but is not made for.

        Raises:
            ConfigError: The bundle was not built for this provider, or the provider does not have the device or the
                precision.
            BackendMissingError: A library is not installed, or is too old.
            BackendError: The device is missing, is refused, or lacks the precision.
            PlansMissingError: Engines would have to be compiled, and `rebuild` is "never".
            OutputError: Compiled engines cannot be written to the bundle.
        """

    @abstractmethod
    def check_installed(self, target: str) -> None:
        """Raise BackendMissingError unless the libraries that run bundles of `target` are installed.

        Args:
            target: The bundle's target in its manifest.
        """

    @abstractmethod
    def describe_library(self, target: str) -> str:
        """Return the name and version of the library that runs bundles of `target`.

        Args:
            target: The bundle's target in its manifest.

        Raises:
            BackendMissingError: It is not installed.
        """

    @abstractmethod
    def describe_device(self, limit: ThreadLimit, device: str | None = None) -> str:
        """Return a description of the device that engines run on.

        Args:
            limit: The limit of CPU threads.
            device: As in `open`.

        Raises:
            BackendError: The device no longer responds.
        """

    def compile(self, bundle: Bundle, progress: Progress) -> str:
        """Compile the engines that a bundle lacks for this machine; a provider that compiles nothing refuses.

        Args:
            bundle: The bundle; one of its `targets`.
            progress: Called while engines are compiled.

        Returns:
            The machine that the engines are compiled for, for people.

        Raises:
            ConfigError: The provider compiles nothing, or the bundle's recorded options are invalid.
            BackendMissingError: A library is not installed.
            BackendError: The device is missing, or compiling failed.
            OutputError: Compiled engines cannot be written to the bundle.
            BundleDamagedError: A graph is damaged, or another bundle has replaced this one.
        """
        raise not_compiled_error(bundle)

    def make_executor(self) -> SharedExecutor | None:
        """Return an executor for all engines of a bundle, which the loader gets; None if they share nothing.

        Raises:
            BackendError: The device is missing, or has no memory left.
        """
        return None


def not_compiled_error(bundle: Bundle) -> ConfigError:
    """Return the error to raise for a bundle whose target is not compiled ahead of time."""
    first, *others = COMPILED_TARGETS
    return ConfigError(
        f"the bundle is not compiled for TensorRT (its target is {bundle.manifest.target}): build it with "
        f"`{BUILD_COMMAND} {shlex.quote(str(bundle.folder))} --target {first}` (or {', '.join(others)}) "
        f"{EXPORTER}, or use provider='auto'"
    )


def check_has_graphs(bundle: Bundle, library: str, precisions: Collection[str]) -> None:
    """Check that a bundle has graphs, in a precision that a library can run.

    Args:
        bundle: The bundle.
        library: The library's display name, for messages.
        precisions: Precisions of the bundles that it runs.

    Raises:
        ConfigError: It has none, or they are in another precision.
    """
    if bundle.manifest.precision not in precisions:  # first: graphs would not help
        raise ConfigError(
            f"the bundle is in bfloat16, which {library} does not compute in: use provider='tensorrt', or build one "
            f"with --precision fp16 {EXPORTER}"
        )
    if not bundle.manifest.onnx:
        raise ConfigError(
            f"the bundle was built with --no-onnx and holds nothing that {library} could run: use provider='tensorrt', "
            f"or build it again without --no-onnx {EXPORTER}"
        )


class ProgressGuard:
    """A progress function that keeps the first exception that it raised.

    This distinguishes the exception from a failure of the work, which may raise the same class.

    Attributes:
        failure: The exception, or None.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.failure: BaseException | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Call the function.

        Raises:
            BaseException: Whatever it raises.
        """
        try:
            self._progress(stage, done, total)
        except BaseException as error:
            if self.failure is None:
                self.failure = error
            raise


def check_unchanged(engine: Engine, bundle: Bundle, name: str, plan: str | None = None) -> Engine:
    """Check that the files of a loaded engine did not change meanwhile, and return it; close it otherwise.

    Args:
        engine: The engine.
        bundle: The bundle that holds its files.
        name: The engine's name.
        plan: The file of its plan; None for an engine that was loaded from its graph.

    Raises:
        BundleDamagedError: A file changed.
    """
    try:
        bundle.check_unchanged(name, plan)
    except BundleDamagedError:
        engine.close()
        raise
    return engine
