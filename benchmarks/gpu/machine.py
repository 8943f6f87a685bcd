"""The machine: GPU, driver, processor, memory, versions of all libraries that have a part in the results, commit."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import Figures, ReportFigures
from vexpress_rt import __version__
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.errors import BackendError

ROOT = Path(__file__).parents[2]
LIBRARIES = re.compile(
    r"(torch|triton|transformers|safetensors|onnx|onnx-?runtime|tensorrt|polygraphy|numpy|av|opencv|nvidia-|cuda-)"
)
# What nvidia-smi is asked for: the state that the card is found in, which is never changed.
FACTS = (
    "name", "driver_version", "memory.total", "memory.used", "power.limit", "clocks.sm", "clocks.max.sm",
    "clocks.mem", "temperature.gpu", "utilization.gpu", "persistence_mode", "mig.mode.current",
)  # fmt: skip


def describe(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Everything about the machine; `gpu` is None where none can be used, and `no_gpu` says why.

    options: {commit: of the checkout, or empty to ask git}.
    """
    del report  # nothing here is likely to fail half way
    facts = {
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "versions": versions(),
        "commit": options["commit"] or _commit(),
    }
    try:
        return facts | {"gpu": _gpu()}
    except BackendError as error:
        return facts | {"gpu": None, "no_gpu": str(error)}


def versions() -> dict[str, str]:
    """Of Python, of vexpress_rt, and of what is installed of LIBRARIES."""
    found = {str(item.metadata["Name"]): item.version for item in metadata.distributions()}
    libraries = {name: text for name, text in sorted(found.items()) if LIBRARIES.match(name.lower())}
    return {"python": platform.python_version(), "vexpress_rt": __version__, **libraries}


def file_stem(machine: Mapping[str, Any]) -> str:
    """A name for files about the machine: of its GPU, or of its processor."""
    name = machine["gpu"]["name"] if machine["gpu"] else f"no-gpu-{machine['cpu']}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _gpu() -> dict[str, Any]:
    """Raises BackendError where no GPU can be used."""
    runtime.check()
    name, (major, minor) = runtime.name_and_capability()
    free, total = runtime.memory()
    return {
        "name": name,
        "capability": f"{major}.{minor}",
        "memory_bytes": total,
        "free_bytes": free,
        "driver": _driver(),
        "state": _state(),
    }


def _driver() -> str:
    """The newest CUDA that the driver knows, and the driver's own version where it reports one."""
    text = f"CUDA {runtime.driver_version()}"
    with contextlib.suppress(OSError):
        if found := re.search(r"\s(\d+\.\d[\d.]*)\s", Path("/proc/driver/nvidia/version").read_text()):
            text += f", {found[1]}"
    return text


def _state() -> dict[str, str]:
    """What nvidia-smi says of the first GPU; empty without it."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(FACTS)}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if answer.returncode:
        return {"nvidia-smi": (answer.stdout + answer.stderr).strip()[:500]}
    values = answer.stdout.splitlines()[0].split(", ")
    return dict(zip(FACTS, values, strict=False))


def _cpu() -> str:
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of this checkout, marked where files differ from it; `unknown` where git does not know it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"
