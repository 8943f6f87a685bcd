"""Describe the machine: GPU, driver, processor, memory, versions of the libraries used, commit."""

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
from vexpress_rt.utils.cpu_model import cpu_model

ROOT = Path(__file__).parents[2]
LIBRARIES = re.compile(
    r"(torch|triton|transformers|safetensors|onnx|onnx-?runtime|tensorrt|openvino|polygraphy|numpy|av|opencv|nvidia-|cuda-)"
)
# Flags of the CPU on which the speed of networks depends.
INSTRUCTIONS = frozenset({
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8",
    "amx_fp16", "asimd", "asimddp", "bf16", "sve",
})  # fmt: skip
# Fields of nvidia-smi for the state of the GPU, which is read and never changed.
FACTS = (
    "name", "driver_version", "memory.total", "memory.used", "power.limit", "clocks.sm", "clocks.max.sm",
    "clocks.mem", "temperature.gpu", "utilization.gpu", "persistence_mode", "mig.mode.current",
)  # fmt: skip


def describe(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Return facts about the machine; `gpu` is None without a usable GPU, and `no_gpu` is the reason.

    Args:
        options: {commit: commit of the checkout; empty to ask git}.
        report: Not called, since figures so far would not help.
    """
    del report
    cpu = cpu_model()
    facts = {
        "system": platform.platform(),
        "cpu": cpu.describe(),
        "slug": cpu.slug,
        "instructions": sorted(INSTRUCTIONS & cpu.flags),
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
    """Return the versions of Python, vexpress_rt and the installed LIBRARIES."""
    found = {str(item.metadata["Name"]): item.version for item in metadata.distributions()}
    libraries = {name: text for name, text in sorted(found.items()) if LIBRARIES.match(name.lower())}
    return {"python": platform.python_version(), "vexpress_rt": __version__, **libraries}


def file_stem(machine: Mapping[str, Any]) -> str:
    """Return a file name without suffix for the machine, made from the name of its GPU or processor."""
    name = machine["gpu"]["name"] if machine["gpu"] else f"no-gpu-{machine['cpu']}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _gpu() -> dict[str, Any]:
    """Return facts about the GPU. Raises BackendError without a usable one."""
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
    """Return the newest CUDA version that the driver supports, and the driver's version if it reports one."""
    text = f"CUDA {runtime.driver_version()}"
    with contextlib.suppress(OSError):
        if found := re.search(r"\s(\d+\.\d[\d.]*)\s", Path("/proc/driver/nvidia/version").read_text()):
            text += f", {found[1]}"
    return text


def _state() -> dict[str, str]:
    """Return what nvidia-smi reports of the first GPU; empty without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(FACTS)}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if answer.returncode:
        return {"nvidia-smi": (answer.stdout + answer.stderr).strip()[:500]}
    values = answer.stdout.splitlines()[0].split(", ")
    return dict(zip(FACTS, values, strict=False))


def _commit() -> str:
    """Return the commit of this checkout, marked as dirty if files differ; `unknown` without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"
