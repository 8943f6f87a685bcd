"""TensorRT and TensorRT for RTX: one interface to both, which hides their differences and those between versions.

No other module imports them, or Polygraphy, which builds with either. Their Python interfaces differ in this:

* The module, and the environment variable that tells Polygraphy which of the two to use.
* TensorRT times kernels on the GPU that it builds for, and keeps the timings in a cache. TensorRT for RTX builds
  without a GPU, for all GPUs of a family, and compiles kernels when an engine is loaded. Its interface has timing
  caches as well, but any use of one logs a warning and looks for a GPU.
* How engines for several kinds of GPU are requested.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from vexpress_rt.backends.tensorrt.messages import Messages, make_logger
from vexpress_rt.bundle.target import COMPILED_TARGETS, TARGETS, TENSORRT, TENSORRT_RTX
from vexpress_rt.errors import BackendError, BackendMissingError, ConfigError
from vexpress_rt.utils.project_links import EXPORTER
from vexpress_rt.utils.signals import run_uninterrupted

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Support:
    """The versions of a library that can be used, and the GPUs that it is made for.

    Attributes:
        minimum: The oldest version that can be used: older ones do not parse the operator Attention.
        capabilities: Compute capabilities of the GPUs that it is made for; None for all.
    """

    minimum: tuple[int, int]
    capabilities: frozenset[tuple[int, int]] | None


_SUPPORT = {
    TENSORRT.name: _Support((10, 14), None),
    TENSORRT_RTX.name: _Support((1, 5), frozenset({(8, 6), (8, 9), (12, 0), (12, 1)})),
}
_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "UINT8": "uint8", "INT8": "int8", "INT32": "int32",
    "INT64": "int64", "BOOL": "bool",
}  # fmt: skip
_SWITCH = "POLYGRAPHY_USE_TENSORRT_RTX"
_LOCK = threading.RLock()


@dataclass(frozen=True, eq=False)
class Library:
    """An imported TensorRT; made by `load`, one for each target in a process.

    Attributes:
        target: `tensorrt` or `tensorrt-rtx`.
        title: Its display name.
        module: The Python module.
        version: The version of the module.
        logger: The logger to pass to TensorRT, which accepts only one in a process.
    """

    target: str
    title: str
    module: Any
    version: str
    logger: Any

    @property
    def name(self) -> str:
        """Title and version."""
        return f"{self.title} {self.version}"

    @property
    def builds_without_gpu(self) -> bool:
        """Whether engines can be built on a machine without a GPU."""
        return TARGETS[self.target].builds_without_gpu

    @property
    def has_timing_cache(self) -> bool:
        """Whether timings of earlier builds make later ones faster."""
        return not self.builds_without_gpu

    def is_portable(self, *, hardware_compatible: bool) -> bool:
        """Return whether an engine also runs on other GPU models than that of the machine that builds it.

        Args:
            hardware_compatible: Whether the engine is built for all GPUs from Ampere on.
        """
        return hardware_compatible or self.builds_without_gpu

    def is_made_for(self, capability: tuple[int, int]) -> bool:
        """Return whether NVIDIA lists GPUs of a compute capability for this library. It may run on others as well.

        Args:
            capability: Compute capability (major, minor).
        """
        capabilities = _SUPPORT[self.target].capabilities
        return capabilities is None or capability in capabilities

    def unsupported_reason(self, gpu: str, capability: tuple[int, int]) -> str:
        """Return why a GPU is not supported and what to do instead; empty if it is supported.

        Args:
            gpu: The GPU's name.
            capability: Its compute capability.
        """
        if self.is_made_for(capability):
            return ""
        return (
            f"{self.name} is not made for {gpu} ({capability[0]}.{capability[1]}): build a bundle on this machine with "
            f"`python -m export.build --target tensorrt` {EXPORTER}"
        )

    def dtype_name(self, dtype: Any) -> str:
        """Return the name that `engine_spec` uses for a TensorRT data type; unknown ones keep their name.

        Args:
            dtype: A `DataType` of the library.
        """
        name = str(dtype.name)
        return _DTYPES.get(name, name)

    def set_hardware(self, config: Any, *, hardware_compatible: bool) -> None:
        """Choose the GPUs to build for, in a builder's configuration.

        Args:
            config: The configuration.
            hardware_compatible: Build for all GPUs from Ampere on. TensorRT for RTX always does, and lacks the option.
        """
        if hardware_compatible and not self.builds_without_gpu:
            config.hardware_compatibility_level = self.module.HardwareCompatibilityLevel.AMPERE_PLUS

    def allow_capture(self, config: Any) -> None:
        """Make engines use only the caller's memory; otherwise TensorRT for RTX cannot run in a CUDA graph.

        Args:
            config: A builder's configuration.
        """
        flag = getattr(self.module.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
        if flag is not None:
            config.set_flag(flag)

    @contextlib.contextmanager
    def collect(self, *, workers: bool = False) -> Iterator[Messages]:
        """Collect TensorRT's messages during a `with` block; yields them.

        If the block succeeds, errors among them are logged as warnings. Messages of other threads are about other
        engines and are not collected.

        Args:
            workers: Also collect messages of threads without a collector, such as TensorRT's worker threads in a
                build.
        """
        messages = Messages(workers=workers)
        self.logger.collectors.append(messages)
        try:
            yield messages
        finally:
            self.logger.collectors.remove(messages)
        if messages.errors:
            _log.warning("%s: %s", self.title, messages.text())

    @contextlib.contextmanager
    def polygraphy(self) -> Iterator[Any]:
        """Yield Polygraphy's `backend.trt`, set up to use this library and its logger, and to log nothing itself.

        Raises:
            BackendMissingError: Polygraphy is not installed.
            BackendError: Polygraphy already uses the other library in this process.
        """
        with _LOCK:
            backend, config, output = _import_polygraphy(self.target)
        if bool(config.USE_TENSORRT_RTX) != (self.target == TENSORRT_RTX.name):
            other = next(TARGETS[name].title for name in COMPILED_TARGETS if name != self.target)
            raise BackendError(
                f"Polygraphy works with one TensorRT library in a process, and in this one it already works with "
                f"{other}: build engines for {self.target} in a process of its own, as "
                f"`python -m export.build --target {self.target}` {EXPORTER} does"
            )
        backend.util.TRT_LOGGER = self.logger  # Polygraphy's own logger prints, and turns Ctrl-C into SIGTERM
        with output.verbosity(output.CRITICAL + 1):
            yield backend


def load(target: str) -> Library:
    """Import the library of a target.

    Args:
        target: `tensorrt` or `tensorrt-rtx`.

    Returns:
        The library, always the same object for a target.

    Raises:
        ConfigError: `target` is neither of the two.
        BackendMissingError: The library cannot be imported or is too old; the message names the extra to install.
    """
    if target not in COMPILED_TARGETS:
        raise ConfigError(f"{target!r} is no TensorRT library; expected {' or '.join(COMPILED_TARGETS)}")
    with _LOCK:
        module = run_uninterrupted(partial(_import, target))  # its C++ code would turn Ctrl-C into an ImportError
        library = _LOADED.get(target)
        if library is None or library.module is not module:
            library = _LOADED[target] = _examine(target, module)
        return library


def available(target: str) -> bool:
    """Return whether `load(target)` succeeds; GPUs are not checked.

    Args:
        target: "tensorrt" or "tensorrt-rtx".
    """
    try:
        load(target)
    except BackendMissingError:
        return False
    return True


def builder(target: str) -> Library:
    """Import the library of a target after checking that Polygraphy, which builds with it, is installed.

    Args:
        target: `tensorrt` or `tensorrt-rtx`.

    Returns:
        The library.

    Raises:
        ConfigError: `target` is neither of the two.
        BackendMissingError: The library or Polygraphy is missing, or the library is too old.
    """
    library = load(target)
    if importlib.util.find_spec("polygraphy") is None:
        raise BackendMissingError(f"Polygraphy, which builds TensorRT engines, is not installed: {_remedy(target)}")
    return library


_LOADED: dict[str, Library] = {}


def _import(target: str) -> Any:
    try:
        if target == TENSORRT_RTX.name:
            import tensorrt_rtx

            return tensorrt_rtx
        import tensorrt

        return tensorrt
    except (ImportError, OSError) as error:  # OSError: installed, but one of its shared libraries does not load
        raise BackendMissingError(f"{TARGETS[target].title} cannot be imported ({error}): {_remedy(target)}") from error


def _remedy(target: str) -> str:
    return f"install it with `pip install 'vexpress-rt[{target}]'`"


def _examine(target: str, module: Any) -> Library:
    """Return the Library of an imported module. Raises BackendMissingError if it is too old."""
    minimum, title = _SUPPORT[target].minimum, TARGETS[target].title
    version = str(module.__version__)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < minimum:
        raise BackendMissingError(
            f"{title} {version} is installed; expected at least {minimum[0]}.{minimum[1]}: {_remedy(target)}"
        )
    return Library(target, title, module, version, make_logger(module, title))


def _import_polygraphy(target: str) -> tuple[Any, Any, Any]:
    """Return Polygraphy's backend, settings and logger. It reads the variable once, when it is imported."""
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = str(int(target == TENSORRT_RTX.name))
    try:
        from polygraphy import config
        from polygraphy.backend import trt
        from polygraphy.logger import G_LOGGER
    except (ImportError, OSError) as error:
        raise BackendMissingError(
            f"Polygraphy, which builds TensorRT engines, cannot be imported ({error}): {_remedy(target)}"
        ) from error
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before
    return trt, config, G_LOGGER
