"""A stand-in for the engine modules of all providers, on a machine with a GPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.doubles.fake_cuda import FakeCuda
from tests.doubles.fakes import FakeBackend, FakeEngine
from vexpress_rt.errors import BackendMissingError


class FakeProviders(FakeBackend):
    """A stand-in for the engine modules of all providers that records the library of each loaded engine.

    Attributes:
        cuda: The GPU.
        can_use_gpu: Whether ONNX Runtime was built with CUDA.
        loaded_with: (library, engine) of every load.
        executors: The executors of engines on the GPU.
    """

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self.cuda = cuda
        self.can_use_gpu = True
        self.loaded_with: list[tuple[str, str]] = []
        self.executors: set[Any] = set()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("onnxruntime.provider.engine", "onnxruntime.provider.cuda_engine", "tensorrt.provider.engine"):
            loads = SimpleNamespace(
                load=partial(self.load_with, "cpu" if module.endswith("er.engine") else "cuda"),
                check_installed=self.check_installed,
                version=self.version,
            )
            monkeypatch.setattr(f"vexpress_rt.backends.{module}", loads)

    def check_installed(self) -> None:
        if not self.can_use_gpu:
            raise BackendMissingError("the ONNX Runtime that is installed runs on the CPU alone")

    def load_with(
        self, library: str, path: Path, spec: Any, *, threads: int | None = None, executor: Any = None,
        target: str | None = None, share_weights: bool = False,
    ) -> FakeEngine:  # fmt: skip
        library = target or library
        assert path.suffix == (".plan" if target else ".onnx")
        engine = super().load(path, spec, threads=threads)
        engine.on_device = library != "cpu"
        self.loaded_with.append((library, engine.spec.name))
        if engine.on_device:
            self.executors.add(executor)
        return engine
