"""OpenVINO itself: its import, version and devices, and its errors. The only module that imports openvino."""

from __future__ import annotations

import functools
import os
import sys
import threading
from typing import Any

from vexpress_rt.backends.validation import error_text
from vexpress_rt.errors import BackendError, BackendMissingError
from vexpress_rt.utils.memory_errors import REMEDY, ran_out
from vexpress_rt.utils.project_links import EXPORTER

SUPPORTED = "2026.4"  # release of the extra: the options of reduced precision are internal and change without notice
INSTALL = "pip install 'vexpress-rt[openvino]'"
_CORE = threading.Lock()  # several threads load engines
_threads_of: int | None = None  # the process that started OpenVINO's threads
_TELEMETRY = "openvino_telemetry"
_DRIVERS = {"GPU": "its OpenCL driver", "NPU": "its driver"}


def import_library() -> Any:
    """Import OpenVINO with its telemetry off.

    OpenVINO imports `openvino_telemetry` if it is installed, and that package sends events and writes into the home
    folder; without it OpenVINO has a stub. So the package is hidden before the import, and stays hidden, unless code
    outside this package has already imported it.

    Raises:
        BackendMissingError: OpenVINO cannot be imported, or is of another release than `SUPPORTED`.
        BackendError: Memory ran out during the import.
    """
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]
    try:
        import openvino
    except (ImportError, OSError) as error:  # OSError: installed, but one of its shared libraries does not load
        if ran_out(error):
            raise BackendError(f"memory ran out while OpenVINO was loaded ({error_text(error)}): {REMEDY}") from error
        raise BackendMissingError(
            f"OpenVINO, which runs engines for this provider, cannot be imported ({error}): install it with `{INSTALL}`"
        ) from error
    found = _release(openvino)
    if not found.startswith(f"{SUPPORTED}."):
        raise BackendMissingError(f"OpenVINO {found} is installed; expected {SUPPORTED}: install it with `{INSTALL}`")
    return openvino


def version() -> str:
    """Return OpenVINO's version, such as "2026.4.1".

    Raises:
        BackendMissingError: OpenVINO is not installed.
    """
    return _release(import_library())


def full_version() -> str:
    """Return OpenVINO's version with its build, such as "2026.4.1-22982-e213a147257-releases/2026/4".

    Raises:
        BackendMissingError: OpenVINO is not installed.
    """
    return str(import_library().__version__)


def core() -> Any:
    """Return the Core of this process, which loads the plugins of devices once.

    Raises:
        BackendMissingError: OpenVINO is not installed.
        BackendError: OpenVINO cannot start, or `check_process` refuses this process.
    """
    check_process()
    library = import_library()
    try:
        with _CORE:
            return _core(library, os.getpid())
    except Exception as error:  # OpenVINO raises RuntimeError, and others while memory runs out
        raise backend_error("OpenVINO cannot start", error) from error


def compiler() -> Any:
    """Return the Core of this process, for compiling or importing models, which starts OpenVINO's threads.

    Raises:
        BackendMissingError: OpenVINO is not installed.
        BackendError: As `core`.
    """
    global _threads_of
    found = core()
    _threads_of = os.getpid()
    return found


def check_process() -> None:
    """Refuse a process that was forked after OpenVINO started its threads: there, a model would run forever.

    Raises:
        BackendError: The process is such a fork.
    """
    if _threads_of not in (None, os.getpid()):
        raise BackendError(
            f"this process was forked from process {_threads_of} after that had loaded engines in OpenVINO, whose "
            "threads a fork does not have: start processes by multiprocessing.get_context('spawn'), or load engines "
            "after the fork alone"
        )


def devices() -> tuple[str, ...]:
    """Return the names of the devices that OpenVINO finds on this machine: "CPU", "GPU" or "GPU.0", "NPU".

    Raises:
        BackendMissingError: OpenVINO is not installed.
        BackendError: OpenVINO cannot start.
    """
    found = core()
    try:
        return tuple(found.available_devices)
    except Exception as error:
        raise backend_error("OpenVINO cannot list its devices", error) from error


def check_device(device: str) -> None:
    """Check that a device is there.

    Args:
        device: "CPU", "GPU" or "NPU".

    Raises:
        BackendMissingError: OpenVINO is not installed.
        BackendError: The device is missing. The message names those found.
    """
    found = devices()
    if device not in (name.partition(".")[0] for name in found):
        driver = _DRIVERS.get(device, "its driver")
        raise BackendError(
            f"OpenVINO finds no device {device} on this machine; it finds {', '.join(found) or 'none'}: install "
            f"{driver}, or choose one of those"
        )


def capabilities(device: str) -> tuple[str, ...]:
    """Return the precisions that a device computes in, by OpenVINO's names: "FP32", "BF16", "FP16" and others.

    Args:
        device: The device, which must be there.

    Raises:
        BackendError: The device does not respond.
    """
    return tuple(_property(device, "OPTIMIZATION_CAPABILITIES"))


def device_name(device: str) -> str:
    """Return a device's full name, such as the model of the CPU.

    Args:
        device: The device, which must be there.

    Raises:
        BackendError: The device does not respond.
    """
    return str(_property(device, "FULL_DEVICE_NAME")).strip()


def backend_error(what: str, error: Exception) -> BackendError:
    """Return the error to raise for an exception of OpenVINO.

    Args:
        what: What failed, as the beginning of the message.
        error: The exception.
    """
    text = error_text(error)
    if ran_out(error):
        return BackendError(
            f"{what}: memory ran out ({text}): close other programs; if the audio encoder failed, give the speech in "
            f"shorter parts, else build a bundle with smaller --height and --width, or fewer --frames {EXPORTER}"
        )
    return BackendError(f"{what}: {text}")


def _property(device: str, name: str) -> Any:
    try:
        return core().get_property(device, name)
    except Exception as error:
        raise backend_error(f"OpenVINO's device {device} does not respond", error) from error


@functools.cache
def _core(library: Any, process: int) -> Any:
    """Return a new Core. A forked process gets one of its own, since it has none of its parent's threads."""
    return library.Core()


def _release(library: Any) -> str:
    """Return the release without the number and the branch of the build: "2026.4.1-22982-..." -> "2026.4.1"."""
    return str(library.__version__).partition("-")[0]
