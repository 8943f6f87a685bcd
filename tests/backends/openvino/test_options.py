"""Device, precision and threads as OpenVINO's plugins get them, and the check of what this machine has."""

from __future__ import annotations

import os

import pytest

from vexpress_rt.backends.openvino import library
from vexpress_rt.backends.openvino.options import DEVICES, PRECISIONS, EngineOptions, check_options
from vexpress_rt.errors import BackendError
from vexpress_rt.utils.cpus import limit_threads


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("bf16", "bf16"), ("fp16", "f16")])
def test_the_precision_is_always_set(device: str, precision: str, hint: str) -> None:
    assert EngineOptions(device, precision).configuration()["INFERENCE_PRECISION_HINT"] == hint


@pytest.mark.parametrize(("precision", "mode"), [("fp32", None), ("bf16", "DISABLE"), ("fp16", "DISABLE")])
def test_snippets_are_off_in_reduced_precision(precision: str, mode: str | None) -> None:
    assert EngineOptions("CPU", precision).configuration().get("SNIPPETS_MODE") == mode


@pytest.mark.parametrize("threads", [None, 1, 1024])
def test_threads_are_limited_to_those_that_this_process_may_use(threads: int | None) -> None:
    given = EngineOptions(threads=threads).configuration()
    assert given["INFERENCE_NUM_THREADS"] == str(limit_threads(threads).threads)
    assert 1 <= int(given["INFERENCE_NUM_THREADS"]) <= (os.cpu_count() or 1)
    assert given["NUM_STREAMS"] == "1"


def test_plugins_of_other_devices_get_no_options_of_the_cpu() -> None:
    assert set(EngineOptions("GPU").configuration()) == {"INFERENCE_PRECISION_HINT", "PERFORMANCE_HINT"}


def test_the_cpu_plugin_takes_every_option() -> None:
    """A misspelt property is an error of OpenVINO when a model is compiled; the internal one is not listed."""
    known = set(library.core().get_property("CPU", "SUPPORTED_PROPERTIES"))
    assert set(EngineOptions("CPU", "bf16").configuration()) - known == {"SNIPPETS_MODE"}


def test_float32_on_the_cpu_is_there() -> None:
    check_options("CPU", "fp32")


def test_a_precision_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "capabilities", lambda device: ("FP32", "INT8"))
    name = library.device_name("CPU")
    assert name
    for precision in set(PRECISIONS) - {"fp32"}:
        with pytest.raises(BackendError) as caught:
            check_options("CPU", precision)
        assert str(caught.value) == (
            f"precision is {precision}, which OpenVINO {library.version()} does not compute in on this {name} (CPU); "
            "it computes in fp32: choose one of those"
        )


def test_the_reported_capabilities_decide() -> None:
    has = library.capabilities("CPU")
    for precision, capability in (("bf16", "BF16"), ("fp16", "FP16")):
        if capability in has:
            check_options("CPU", precision)
        else:
            with pytest.raises(BackendError, match=f"precision is {precision}, which OpenVINO .* does not compute in"):
                check_options("CPU", precision)


@pytest.mark.parametrize(("device", "driver"), [("GPU", "its OpenCL driver"), ("NPU", "its driver")])
def test_a_device_that_is_not_there_is_refused_with_those_found(
    monkeypatch: pytest.MonkeyPatch, device: str, driver: str
) -> None:
    monkeypatch.setattr(library, "devices", lambda: ("CPU",))
    message = rf"finds no device {device} on this machine; it finds CPU: install {driver}, or choose one of those"
    with pytest.raises(BackendError, match=message):
        check_options(device, "fp32")


def test_one_of_several_gpus_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "devices", lambda: ("CPU", "GPU.0", "GPU.1"))
    monkeypatch.setattr(library, "capabilities", lambda device: ("FP32", "FP16"))
    check_options("GPU", "fp16")
