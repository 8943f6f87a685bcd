"""Small engines for tests of code that runs on a GPU: their plans and specifications."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from tests.doubles.fake_cuda import installed
from tests.doubles.fake_tensorrt import DTYPES, FakeTensorRT, Plan
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec

Arrays = Mapping[str, np.ndarray]
MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)
CAPACITY = 1 << 20
NAMES = {"BF16": "bfloat16"}


def fake_tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRT]:
    """Yield a stand-in for TensorRT on a stand-in GPU with 1 MiB."""
    for cuda in installed(monkeypatch, CAPACITY):
        module = FakeTensorRT(cuda)
        monkeypatch.setitem(sys.modules, "tensorrt", module)  # type: ignore[arg-type]
        yield module


def spec_of(name: str, plan: Plan) -> EngineSpec:
    """Return the specification of a plan."""

    def tensors(side: dict[str, tuple[str, tuple[int, ...]]]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                key,
                tuple("N" if size < 0 else str(size) for size in shape),
                tuple(None if size < 0 else size for size in shape),
                NAMES.get(dtype, DTYPES[dtype]),
            )
            for key, (dtype, shape) in side.items()
        )

    return EngineSpec(name, tensors(plan.inputs), tensors(plan.outputs))


def adder(**changes: Any) -> Plan:
    """Return a plan of sum = a + b and difference = a - b, of (2, 3) float32."""
    matrix = ("FLOAT", (2, 3))
    return Plan(**{
        "inputs": {"a": matrix, "b": matrix},
        "outputs": {"sum": matrix, "difference": matrix},
        "compute": lambda x: {"sum": x["a"] + x["b"], "difference": x["a"] - x["b"]},
        **changes,
    })  # fmt: skip


def doubler(dtype: str = "FLOAT", **changes: Any) -> Plan:
    """Return a plan of y = 2 x, of (2, 3)."""
    return Plan(**{
        "inputs": {"x": (dtype, (2, 3))},
        "outputs": {"y": (dtype, (2, 3))},
        "compute": lambda arrays: {"y": (arrays["x"] * 2).astype(DTYPES[dtype])},
        **changes,
    })  # fmt: skip


def pooler(**changes: Any) -> Plan:
    """Return a plan of the means (1, N // 2) of neighbours in samples (1, N), N from 2 to 1000.

    It needs 4 N bytes of activation memory.
    """
    return Plan(**{
        "inputs": {"samples": ("FLOAT", (1, -1))},
        "outputs": {"means": ("FLOAT", (1, -1))},
        "compute": lambda arrays: {"means": arrays["samples"].reshape(1, -1, 2).mean(axis=2)},
        "ranges": {"samples": ((1, 2), (1, 100), (1, 1000))},
        "sizes": lambda shapes: {"means": (1, shapes["samples"][1] // 2)},
        "activations": lambda shapes: 4 * shapes["samples"][1],
        **changes,
    })  # fmt: skip
