"""Fixtures for tests of the registry and of loaded engines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.fake_cuda import FakeCuda, installed
from tests.doubles.fake_providers import FakeProviders
from tests.doubles.fake_tensorrt import FakeTensorRT
from tests.doubles.fakes import write_bundle
from tests.support.compiled import add_plans
from tests.support.engines import CAPACITY
from vexpress_rt.native import device_kernels


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    yield from installed(monkeypatch, CAPACITY)


@pytest.fixture
def machine(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeProviders:
    """A machine with a GPU, TensorRT, and ONNX Runtime with CUDA; without kernels, because its engines use arrays."""
    monkeypatch.setitem(sys.modules, device_kernels.EXTENSION, None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(cuda))  # type: ignore[arg-type]
    fake = FakeProviders(cuda)
    fake.install(monkeypatch)
    return fake


@pytest.fixture(scope="module")
def compiled_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with plans of all engines except the face detector."""
    return add_plans(write_bundle(tmp_path_factory.mktemp("compiled") / "bundle"))
