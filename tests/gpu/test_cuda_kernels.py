"""The module of CUDA kernels: its build, tested with nvcc, and its results, tested on a GPU."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.device_cases import CASES, DeviceArena, check_captured_step
from tests.support.kernel_cases import host_kernels
from tests.support.paths import ROOT
from vexpress_rt.native import device_kernels
from vexpress_rt.native.device_kernels import EXTENSION, Kernels


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    changed = os.environ | environment
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=changed)


# The build

KERNELS = ("guided_step", "correct_predictions", "median_3x3x3", "rgb_to_nv12", "weighted_sum")


@pytest.mark.nvcc
def test_kernels_are_built_where_nvcc_is() -> None:
    module = importlib.import_module(EXTENSION)
    assert {name for name, _ in inspect.getmembers(module, callable) if not name.startswith("_")} == set(KERNELS)


@pytest.mark.nvcc
def test_importing_the_kernels_loads_no_library_of_cuda() -> None:
    code = f"import {EXTENSION}; print(open('/proc/self/maps').read())"
    loaded = set(re.findall(r"/(lib[^/\s]+)$", python(code).stdout, re.MULTILINE))
    assert any(name.startswith("libc.") for name in loaded)
    assert not [name for name in loaded if re.match("lib(cuda|nv)", name)]


@pytest.mark.nvcc
@pytest.mark.parametrize("name", KERNELS)
def test_gpu_and_cpu_take_the_same_arguments(name: str) -> None:
    module = importlib.import_module(EXTENSION)
    assert getattr(module, name).__doc__ == getattr(host_kernels()._module, name).__doc__


@pytest.mark.nvcc
def test_compiled_kernels_round_products_and_sums_one_by_one_as_numpy_does() -> None:
    spec = importlib.util.find_spec(EXTENSION)
    assert spec is not None
    assert spec.origin is not None
    intermediate = Path(spec.origin).read_bytes()  # contains PTX, which shows whether nvcc fused operations
    assert re.search(rb"mul\.rn\.f32\s", intermediate)
    assert not re.search(rb"\bfma\.\w+(\.ftz)?\.f32\s", intermediate)
    assert not re.search(rb"(mul|add|sub|div)(\.approx|\.full)?(\.ftz)?\.f32\s", intermediate)


@pytest.mark.nvcc
def test_launch_without_a_gpu_is_a_backend_error_that_names_cudas() -> None:
    code = """
from types import SimpleNamespace
from vexpress_rt.native import device_kernels
memory = [SimpleNamespace(pointer=4096 * place, bytes=4096) for place in (1, 2)]
device_kernels.load().rgb_to_nv12(*memory, height=8, width=8, stream=SimpleNamespace(handle=0))
"""
    finished = python(code, CUDA_VISIBLE_DEVICES="")
    assert finished.returncode == 1
    assert re.search(r"BackendError: CUDA does not launch the kernel rgb_to_nv12: cudaError\w+: ", finished.stderr)


# Results


@pytest.fixture
def arena() -> Iterator[DeviceArena]:
    with ExitStack() as stack:
        yield DeviceArena(stack)


@pytest.fixture
def kernels() -> Kernels:
    return device_kernels.load()


@pytest.mark.gpu
@pytest.mark.nvcc
@pytest.mark.parametrize("case", CASES)
def test_a_kernel_on_a_gpu_equals_its_reference_bit_for_bit(kernels: Kernels, arena: DeviceArena, case: str) -> None:
    CASES[case](kernels, arena)


@pytest.mark.gpu
@pytest.mark.nvcc
def test_captured_step_does_the_same_when_replayed(kernels: Kernels, arena: DeviceArena) -> None:
    check_captured_step(kernels, arena)
