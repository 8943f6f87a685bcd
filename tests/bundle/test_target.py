"""Targets differ in what runs the engines, in which precisions, and on which GPUs."""

from __future__ import annotations

import pytest

from vexpress_rt.bundle.engine_spec import PRECISIONS
from vexpress_rt.bundle.target import COMPILED_TARGETS, ONNXRUNTIME, TARGETS, TENSORRT, TENSORRT_RTX, check_precision
from vexpress_rt.errors import ConfigError


def test_the_compiled_targets_are_the_libraries_of_tensorrt() -> None:
    assert list(TARGETS) == ["onnxruntime", "tensorrt", "tensorrt-rtx"]
    assert list(COMPILED_TARGETS) == [TENSORRT.name, TENSORRT_RTX.name]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_bfloat16_for_onnx_runtime_is_refused(precision: str, target: str) -> None:
    if (precision, target) != ("bf16", ONNXRUNTIME.name):
        check_precision(precision, target)
        return
    with pytest.raises(ConfigError, match=r"is bf16 with the target onnxruntime; .* tensorrt and tensorrt-rtx, which"):
        check_precision(precision, target)


@pytest.mark.parametrize(
    ("capability", "runs"), [("7.5", False), ("8.0", True), ("9.0", True), ("10.0", True), ("12.1", True)]
)
def test_portable_plans_of_tensorrt_run_from_ampere_on(capability: str, runs: bool) -> None:
    assert TENSORRT.runs_portable_plans(capability) == runs
    assert TENSORRT_RTX.runs_portable_plans(capability)


def test_only_tensorrt_builds_on_the_gpu_that_will_run_the_engines() -> None:
    assert [name for name, target in TARGETS.items() if not target.builds_without_gpu] == ["tensorrt"]
