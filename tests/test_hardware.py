"""Tests that want a GPU are left out where there is none, and never in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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


def run_sample(folder: Path, *, gpus: int, passes: bool = True) -> subprocess.CompletedProcess[str]:
    """A run of pytest, with this project's settings, on a machine with so many GPUs."""
    (folder / "test_sample.py").write_text(SAMPLE.format(passes=passes))
    (folder / "conftest.py").write_text(f"from vexpress_rt import device\ndevice.count = lambda: {gpus}\n")
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-p", "tests.hardware", *settings, str(folder)]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # none of them is needed, and each takes time
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_without_a_gpu_the_tests_that_want_one_are_left_out_and_listed(tmp_path: Path) -> None:
    run = run_sample(tmp_path, gpus=0)
    assert run.returncode == 0
    assert "1 passed, 3 deselected" in run.stdout
    _, _, listed = run.stdout.partition("these tests wanted a GPU")
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
    from tests import hardware

    monkeypatch.delenv("VEXPRESS_RT_CUDA", raising=False)
    if switch is not None:
        monkeypatch.setenv("VEXPRESS_RT_CUDA", switch)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: nvcc)
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: object() if built else None)
    assert hardware.kernels_are_expected() == expected
