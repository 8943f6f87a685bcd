"""Deselect tests whose hardware is missing, and list them at the end of the run.

    @pytest.mark.gpu        an NVIDIA GPU with its driver, and cuda-python
    @pytest.mark.tensorrt   a GPU, and TensorRT
    @pytest.mark.rtx        a GPU that TensorRT for RTX supports, and that library
    @pytest.mark.nvcc       the CUDA kernels, which are built where nvcc is found
    @pytest.mark.bf16       a CPU in whose bfloat16 OpenVINO computes

A plugin of pytest; `conftest.py` names it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections import Counter
from functools import partial

import pytest


def gpu_is_here() -> bool:
    from vexpress_rt.backends.cuda import runtime as device

    return device.count() > 0


def kernels_are_expected() -> bool:
    """Return whether the CUDA kernels are built, or should be."""
    built = importlib.util.find_spec("vexpress_rt.native._cuda") is not None
    return built or (shutil.which("nvcc") is not None and os.environ.get("VEXPRESS_RT_CUDA") != "OFF")


def library_is_here(target: str) -> bool:
    """Return whether the TensorRT library of a target is installed, with a GPU that it supports."""
    from vexpress_rt.backends.cuda import runtime as device
    from vexpress_rt.backends.tensorrt import library as tensorrt_library

    if not gpu_is_here() or not tensorrt_library.available(target):
        return False
    return tensorrt_library.load(target).is_made_for(device.name_and_capability()[1])


def bfloat16_is_here() -> bool:
    """Return whether OpenVINO computes in bfloat16 on this CPU."""
    from vexpress_rt.backends.openvino import library as openvino_library

    return "BF16" in openvino_library.capabilities("CPU")


WANTED = {
    "gpu": ("a GPU", gpu_is_here),
    "tensorrt": ("TensorRT and a GPU", partial(library_is_here, "tensorrt")),
    "rtx": ("TensorRT for RTX and an RTX GPU", partial(library_is_here, "tensorrt-rtx")),
    "bf16": ("a CPU in whose bfloat16 OpenVINO computes", bfloat16_is_here),
    "nvcc": ("the CUDA kernels, which nvcc builds", kernels_are_expected),
}
LEFT_OUT = pytest.StashKey[dict[str, Counter[str]]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out: dict[str, Counter[str]] = {}
    for marker, (_, is_here) in WANTED.items():
        wanting = [item for item in items if item.get_closest_marker(marker)]
        if not wanting or is_here():
            continue
        left_out[marker] = Counter(item.nodeid.partition("[")[0] for item in wanting)
        items[:] = [item for item in items if item not in wanting]
        config.hook.pytest_deselected(items=wanting)
    config.stash[LEFT_OUT] = left_out


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for marker, names in config.stash.get(LEFT_OUT, {}).items():
        terminalreporter.section(f"tests left out that need {WANTED[marker][0]}")
        for name, count in names.items():
            terminalreporter.line(name + (f" ({count} cases)" if count > 1 else ""))
