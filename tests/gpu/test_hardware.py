"""Tests that need a GPU are deselected and listed on machines without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import hardware
from tests.support.paths import ROOT
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.backends.tensorrt.library import Library

SAMPLE = """
import pytest

@pytest.mark.gpu
def test_on_a_gpu():
    pass

@pytest.mark.gpu
@pytest.mark.parametrize("size", [1, 2])
def test_sizes_on_a_gpu(size):
    pass

def test_anywhere():
    assert {passes}
"""


def run_sample(
    folder: Path, *, gpus: int, passes: bool = True, sample: str = SAMPLE, settings: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run pytest with this project's settings on a machine with `gpus` GPUs; `settings` is Python code to run first."""
    (folder / "test_sample.py").write_text(sample.format(passes=passes))
    (folder / "conftest.py").write_text(
        f"{settings}from vexpress_rt.backends.cuda import runtime\nruntime.count = lambda: {gpus}\n"
    )
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.hardware", *options, str(folder)]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins are not needed and take time
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_without_a_gpu_the_tests_that_want_one_are_left_out_and_listed(tmp_path: Path) -> None:
    run = run_sample(tmp_path, gpus=0)
    assert run.returncode == 0
    assert "1 passed, 3 deselected" in run.stdout
    _, _, listed = run.stdout.partition("tests left out that need a GPU")
    assert "test_sample.py::test_on_a_gpu\n" in listed
    assert "test_sample.py::test_sizes_on_a_gpu (2 cases)\n" in listed
    assert "test_anywhere" not in listed


def test_with_a_gpu_every_test_runs_and_none_is_listed(tmp_path: Path) -> None:
    run = run_sample(tmp_path, gpus=1)
    assert run.returncode == 0
    assert "4 passed" in run.stdout
    assert "wanted" not in run.stdout


def test_leaving_tests_out_hides_no_failure(tmp_path: Path) -> None:
    run = run_sample(tmp_path, gpus=0, passes=False)
    assert run.returncode == 1
    assert "1 failed, 3 deselected" in run.stdout


@pytest.mark.parametrize(
    ("libraries", "capability", "left_out"),
    [
        ((), (8, 9), {"TensorRT and a GPU", "TensorRT for RTX and an RTX GPU"}),
        (("tensorrt",), (9, 0), {"TensorRT for RTX and an RTX GPU"}),
        (("tensorrt-rtx",), (9, 0), {"TensorRT and a GPU", "TensorRT for RTX and an RTX GPU"}),
        (("tensorrt-rtx",), (8, 9), {"TensorRT and a GPU"}),
        (("tensorrt", "tensorrt-rtx"), (8, 9), set()),
    ],
)
def test_libraries_are_wanted_with_a_gpu_that_they_are_made_for(
    monkeypatch: pytest.MonkeyPatch, libraries: tuple[str, ...], capability: tuple[int, int], left_out: set[str]
) -> None:
    monkeypatch.setattr(runtime, "count", lambda: 1)
    monkeypatch.setattr(runtime, "name_and_capability", lambda: ("A GPU", capability))
    monkeypatch.setattr(tensorrt_library, "available", lambda target: target in libraries)
    monkeypatch.setattr(tensorrt_library, "load", lambda target: Library(target, "", None, "", None))
    wanted = (hardware.WANTED[marker] for marker in ("tensorrt", "rtx"))
    assert {words for words, is_here in wanted if not is_here()} == left_out


def test_a_test_of_a_library_that_is_missing_is_listed_under_it(tmp_path: Path) -> None:
    sample = "import pytest\n\n@pytest.mark.gpu\n@pytest.mark.tensorrt\ndef test_engines():\n    pass\n"
    hidden = "import sys\nsys.modules['tensorrt'] = None\n"
    run = run_sample(tmp_path, gpus=1, sample=sample, settings=hidden)
    assert run.returncode == 5  # pytest's exit code if no tests were collected
    _, _, listed = run.stdout.partition("tests left out that need TensorRT and a GPU")
    assert "test_sample.py::test_engines\n" in listed


@pytest.mark.parametrize(
    ("nvcc", "built", "switch", "expected"),
    [
        pytest.param("/usr/bin/nvcc", False, None, True, id="nvcc-but-not-built"),
        pytest.param("/usr/bin/nvcc", False, "OFF", False, id="switched-off"),
        pytest.param(None, True, None, True, id="built-elsewhere"),
        pytest.param(None, False, "ON", False, id="no-nvcc"),
    ],
)
def test_kernels_are_expected_where_they_are_or_nvcc_could_have_built_them(
    monkeypatch: pytest.MonkeyPatch, nvcc: str | None, built: bool, switch: str | None, expected: bool
) -> None:
    monkeypatch.delenv("VEXPRESS_RT_CUDA", raising=False)
    if switch is not None:
        monkeypatch.setenv("VEXPRESS_RT_CUDA", switch)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: nvcc)
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: object() if built else None)
    assert hardware.kernels_are_expected() == expected
