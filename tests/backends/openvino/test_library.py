"""OpenVINO's import: what is missing or of another release, telemetry, and one Core for each process."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.conftest import GoldenSet
from vexpress_rt.backends.openvino import library
from vexpress_rt.errors import BackendError, BackendMissingError


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # type: ignore[arg-type]
    for call in (library.import_library, library.version, library.devices, library.core):
        with pytest.raises(BackendMissingError, match=r"install it with `pip install 'vexpress-rt\[openvino\]'`"):
            call()


@pytest.mark.parametrize("found", ["2026.3.0", "2026.5.0-1-abc", "2026.40.0", "2025.4.1"])
def test_another_release_says_what_to_install(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(__version__=found))  # type: ignore[arg-type]
    message = rf"OpenVINO {found.partition('-')[0]} is installed; expected 2026.4: install it with `pip install"
    with pytest.raises(BackendMissingError, match=message):
        library.import_library()


def test_the_version_is_that_of_the_release() -> None:
    assert library.version().startswith("2026.4.")
    assert "-" not in library.version()


def test_a_process_has_one_core() -> None:
    assert library.core() is library.core()
    assert "CPU" in library.devices()
    assert "FP32" in library.capabilities("CPU")


FORK = """
import os, sys
import numpy as np
import vexpress_rt.backends.openvino.library as library

library.devices()
child = os.fork()
if child == 0:  # a Core alone has no threads
    os._exit(0 if "CPU" in library.devices() else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

from vexpress_rt.backends.openvino.engine import load
from vexpress_rt.errors import BackendError

engine = load(sys.argv[1], None)
frame = np.zeros((1, 3, 64, 64), np.float32)
engine.run_positional(frame)
child = os.fork()
if child == 0:
    faults = 0
    for use in (lambda: engine.run_positional(frame), lambda: load(sys.argv[1], None), library.devices):
        try:
            use()
        except BackendError as error:
            faults += "was forked from process" in str(error) and "get_context('spawn')" in str(error)
    os._exit(0 if faults == 3 else 4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
engine.run_positional(frame)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_process_that_was_forked_from_one_with_engines_is_refused(tiny_square: GoldenSet) -> None:
    detector = tiny_square.bundle / "face_detector.onnx"
    done = subprocess.run([sys.executable, "-c", FORK, str(detector)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_device_that_does_not_respond_is_named() -> None:
    with pytest.raises(BackendError, match="OpenVINO's device TPU does not respond: "):
        library.capabilities("TPU")


@pytest.mark.parametrize("text", ["std::bad_alloc", "Failed to allocate 12 bytes of memory", "Cannot allocate memory"])
def test_exhausted_memory_is_an_error_with_a_remedy(text: str) -> None:
    error = library.backend_error("engine e failed", RuntimeError(f"Exception from cpu_memory.cpp:\n{text}"))
    assert "engine e failed: memory ran out" in str(error)
    assert "fewer --frames" in str(error)
