"""TensorRT and TensorRT for RTX behind one face: what differs between the two, and between their versions, stands here.

No other file imports them, or Polygraphy, which builds with either. Their Python interfaces are the same but for:

* The module, and the variable of the environment that tells Polygraphy which of the two to use.
* TensorRT times kernels on the GPU that it builds for, and keeps what it timed in a cache. TensorRT for RTX builds
  without a GPU for all of a family, and compiles kernels when an engine is loaded; its interface still has timing
  caches, but merely touching one warns, and looks for a GPU.
* How engines for several kinds of GPU are asked for.
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
from vexpress_rt.bundle.compilation import TITLES
from vexpress_rt.errors import BackendError, BackendMissingError, ConfigError
from vexpress_rt.utils.signals import run_uninterrupted

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kind:
    """title: for messages.  minimum: the oldest version that serves."""

    title: str
    minimum: tuple[int, int]


_OLDEST = {"tensorrt": (10, 14), "tensorrt-rtx": (1, 5)}  # before, the operator Attention was not read
_KINDS = {target: _Kind(title, _OLDEST[target]) for target, title in TITLES.items()}
_RTX = {(8, 6), (8, 9), (12, 0), (12, 1)}  # compute capabilities
_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "UINT8": "uint8", "INT8": "int8", "INT32": "int32",
    "INT64": "int64", "BOOL": "bool",
}  # fmt: skip
_SWITCH = "POLYGRAPHY_USE_TENSORRT_RTX"
_LOCK = threading.RLock()


@dataclass(frozen=True, eq=False)
class Library:
    """An imported TensorRT; made by `load`, one for each target in a process.

    target: `tensorrt` or `tensorrt-rtx`.  title: its name for people.  module: what was imported.  version: as it says.
    logger: to be passed on wherever TensorRT wants one; it accepts but one in a process.
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
        return self.target == "tensorrt-rtx"

    @property
    def has_timing_cache(self) -> bool:
        """Whether timings of earlier builds make later ones faster."""
        return self.target == "tensorrt"

    def is_portable(self, *, hardware_compatible: bool) -> bool:
        """Whether an engine runs on other kinds of GPU than that of the machine that built it."""
        return hardware_compatible or self.builds_without_gpu

    def is_made_for(self, capability: tuple[int, int]) -> bool:
        """Whether NVIDIA lists GPUs of that compute capability for it. It may run on others nonetheless."""
        return self.target == "tensorrt" or capability in _RTX

    def unsupported_reason(self, gpu: str, capability: tuple[int, int]) -> str:
        """That it is not made for a GPU, and what to build for that instead; empty where it is."""
        if self.is_made_for(capability):
            return ""
        return (
            f"{self.name} is not made for {gpu} ({capability[0]}.{capability[1]}): build a bundle on this machine with "
            "`python -m export.build --target tensorrt`"
        )

    def dtype_name(self, dtype: Any) -> str:
        """TensorRT's data type under the name that `specs.py` uses; unknown ones keep their own."""
        name = str(dtype.name)
        return _DTYPES.get(name, name)

    def set_hardware(self, config: Any, *, hardware_compatible: bool) -> None:
        """Say in a builder's configuration for which GPUs to build.

        hardware_compatible: all from Ampere on. TensorRT for RTX does so by itself, and does not know the option.
        """
        if self.target == "tensorrt" and hardware_compatible:
            config.hardware_compatibility_level = self.module.HardwareCompatibilityLevel.AMPERE_PLUS

    def allow_capture(self, config: Any) -> None:
        """Have the engine take all its memory from its user, without which TensorRT for RTX runs in no CUDA graph."""
        flag = getattr(self.module.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
        if flag is not None:
            config.set_flag(flag)

    @contextlib.contextmanager
    def collect(self, *, workers: bool = False) -> Iterator[Messages]:
        """Collects what TensorRT says inside. If all went well nonetheless, its errors are logged as warnings after.

        What it says in other threads is about other engines, and not collected here.  workers: for a build, which has
        threads of TensorRT's own: collect also from threads in which nobody else does.
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
        """Polygraphy's `backend.trt`, working with this library and its logger, and silent itself.

        Raises BackendMissingError without Polygraphy, BackendError if it already works with the other library.
        """
        with _LOCK:
            backend, config, output = _import_polygraphy(self.target)
        if bool(config.USE_TENSORRT_RTX) != (self.target == "tensorrt-rtx"):
            other = _KINDS["tensorrt" if self.target == "tensorrt-rtx" else "tensorrt-rtx"].title
            raise BackendError(
                f"Polygraphy works with one TensorRT library in a process, and in this one it already works with "
                f"{other}: build engines for {self.target} in a process of its own, as "
                f"`python -m export.build --target {self.target}` does"
            )
        backend.util.TRT_LOGGER = self.logger  # its own prints, and turns Ctrl-C into SIGTERM
        with output.verbosity(output.CRITICAL + 1):
            yield backend


def load(target: str) -> Library:
    """The library of a target, `tensorrt` or `tensorrt-rtx`.

    Raises ConfigError for another target, BackendMissingError naming the extra to install where it cannot be imported
    or is too old.
    """
    if target not in _KINDS:
        raise ConfigError(f"{target!r} is no TensorRT library; expected {' or '.join(_KINDS)}")
    with _LOCK:
        module = run_uninterrupted(partial(_import, target))  # its C++ would make an ImportError of a Ctrl-C
        library = _LOADED.get(target)
        if library is None or library.module is not module:
            library = _LOADED[target] = _examine(target, module)
        return library


def available(target: str) -> bool:
    """Whether `load(target)` would succeed. Says nothing about GPUs."""
    try:
        load(target)
    except BackendMissingError:
        return False
    return True


def builder(target: str) -> Library:
    """As `load`, and raises BackendMissingError without Polygraphy, too, which is looked for but not imported."""
    library = load(target)
    if importlib.util.find_spec("polygraphy") is None:
        raise BackendMissingError(f"Polygraphy, which builds TensorRT engines, is not installed: {_remedy(target)}")
    return library


_LOADED: dict[str, Library] = {}


def _import(target: str) -> Any:
    try:
        if target == "tensorrt":
            import tensorrt

            return tensorrt
        import tensorrt_rtx

        return tensorrt_rtx
    except (ImportError, OSError) as error:  # OSError: installed, but one of its shared libraries does not load
        raise BackendMissingError(f"{_KINDS[target].title} cannot be imported ({error}): {_remedy(target)}") from error


def _remedy(target: str) -> str:
    return f"install it with `pip install 'vexpress-rt[{target}]'`"


def _examine(target: str, module: Any) -> Library:
    kind = _KINDS[target]
    version = str(module.__version__)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < kind.minimum:
        raise BackendMissingError(
            f"{kind.title} {version} is installed; expected at least {kind.minimum[0]}.{kind.minimum[1]}: "
            f"{_remedy(target)}"
        )
    return Library(target, kind.title, module, version, make_logger(module, kind.title))


def _import_polygraphy(target: str) -> tuple[Any, Any, Any]:
    """Its backend for TensorRT, its settings, its logger. The variable is read once, when Polygraphy is imported."""
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = str(int(target == "tensorrt-rtx"))
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
