"""Small engines for the tests of what runs on a GPU: what their files hold, and their specifications."""

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
    """What a fixture yields from: fakes in the places of CUDA and TensorRT, on a GPU with 1 MiB."""
    for cuda in installed(monkeypatch, CAPACITY):
        module = FakeTensorRT(cuda)
        monkeypatch.setitem(sys.modules, "tensorrt", module)  # type: ignore[arg-type]
        yield module


def spec_of(name: str, plan: Plan) -> EngineSpec:
    """The specification that an engine fits."""

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
    """sum = a + b, difference = a - b, of (2, 3) float32."""
    matrix = ("FLOAT", (2, 3))
    return Plan(**{
        "inputs": {"a": matrix, "b": matrix},
        "outputs": {"sum": matrix, "difference": matrix},
        "compute": lambda x: {"sum": x["a"] + x["b"], "difference": x["a"] - x["b"]},
        **changes,
    })  # fmt: skip


def doubler(dtype: str = "FLOAT", **changes: Any) -> Plan:
    """y = 2 x, of (2, 3)."""
    return Plan(**{
        "inputs": {"x": (dtype, (2, 3))},
        "outputs": {"y": (dtype, (2, 3))},
        "compute": lambda arrays: {"y": (arrays["x"] * 2).astype(DTYPES[dtype])},
        **changes,
    })  # fmt: skip


def pooler(**changes: Any) -> Plan:
    """means (1, N // 2) of neighbours in samples (1, N), N from 2 to 1000; needs 4 N bytes of activations."""
    return Plan(**{
        "inputs": {"samples": ("FLOAT", (1, -1))},
        "outputs": {"means": ("FLOAT", (1, -1))},
        "compute": lambda arrays: {"means": arrays["samples"].reshape(1, -1, 2).mean(axis=2)},
        "ranges": {"samples": ((1, 2), (1, 100), (1, 1000))},
        "sizes": lambda shapes: {"means": (1, shapes["samples"][1] // 2)},
        "activations": lambda shapes: 4 * shapes["samples"][1],
        **changes,
    })  # fmt: skip
