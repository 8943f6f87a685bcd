"""OpenVINO's import: what is missing or of another release, telemetry, and one Core for each process."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

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


def test_a_device_that_does_not_respond_is_named() -> None:
    with pytest.raises(BackendError, match="OpenVINO's device TPU does not respond: "):
        library.capabilities("TPU")


@pytest.mark.parametrize("text", ["std::bad_alloc", "Failed to allocate 12 bytes of memory", "Cannot allocate memory"])
def test_exhausted_memory_is_an_error_with_a_remedy(text: str) -> None:
    error = library.backend_error("engine e failed", RuntimeError(f"Exception from cpu_memory.cpp:\n{text}"))
    assert "engine e failed: memory ran out" in str(error)
    assert "fewer --frames" in str(error)
