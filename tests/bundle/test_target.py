"""Targets differ in what runs the engines, in which precisions, and on which GPUs."""

from __future__ import annotations

import pytest

from vexpress_rt.bundle.engine_spec import PRECISIONS
from vexpress_rt.bundle.target import (
    COMPILED_TARGETS,
    ONNXRUNTIME,
    OPENVINO,
    TARGETS,
    TENSORRT,
    TENSORRT_RTX,
    check_precision,
)
from vexpress_rt.errors import ConfigError


def test_the_compiled_targets_are_the_libraries_of_tensorrt() -> None:
    assert list(TARGETS) == ["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
    assert list(COMPILED_TARGETS) == [TENSORRT.name, TENSORRT_RTX.name]


REFUSED = {
    ("bf16", ONNXRUNTIME.name): r"target onnxruntime; expected fp32 or fp16 .* the targets tensorrt, tensorrt-rtx: ",
    ("fp16", OPENVINO.name): r"target openvino; expected fp32 .* the targets onnxruntime, tensorrt, tensorrt-rtx: ",
    ("bf16", OPENVINO.name): r"target openvino; expected fp32 .* the targets tensorrt, tensorrt-rtx: ",
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_that_the_library_does_not_compute_in_is_refused(precision: str, target: str) -> None:
    if (precision, target) not in REFUSED:
        check_precision(precision, target)
        return
    with pytest.raises(ConfigError, match=f"precision is {precision} with the {REFUSED[precision, target]}"):
        check_precision(precision, target)


def test_the_denoisers_of_openvino_alone_take_sines() -> None:
    assert [name for name, target in TARGETS.items() if target.sines_as_input] == [OPENVINO.name]


@pytest.mark.parametrize(
    ("capability", "runs"), [("7.5", False), ("8.0", True), ("9.0", True), ("10.0", True), ("12.1", True)]
)
def test_portable_plans_of_tensorrt_run_from_ampere_on(capability: str, runs: bool) -> None:
    assert TENSORRT.runs_portable_plans(capability) == runs
    assert TENSORRT_RTX.runs_portable_plans(capability)


def test_only_tensorrt_builds_on_the_gpu_that_will_run_the_engines() -> None:
    assert [name for name, target in TARGETS.items() if not target.builds_without_gpu] == ["tensorrt"]
