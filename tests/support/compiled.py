"""Bundles with plans, for some machine, and a builder of engines that writes nothing but words."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.fake_cuda import installed
from tests.doubles.fake_tensorrt import FakeTensorRT
from tests.doubles.fakes import FakeBackend
from tests.support.engines import CAPACITY
from vexpress_rt.backends.tensorrt import compiler
from vexpress_rt.backends.tensorrt.builder import BuildInfo
from vexpress_rt.backends.tensorrt.library import Library
from vexpress_rt.backends.tensorrt.options import EngineOptions
from vexpress_rt.bundle.bundle import file_entry
from vexpress_rt.bundle.compilation import Compilation
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR, EngineSpec
from vexpress_rt.bundle.manifest import read_manifest, write_manifest

OTHERS = {  # machines on which plans of here do not run, and the other way round
    "another GPU": {"gpu": "NVIDIA A100", "capability": "8.0"},
    "another model of the same capability": {"gpu": "NVIDIA H200"},
    "another version": {"version": "10.14.1"},
    "another version, portable": {"version": "10.14.1", "gpu": "portable", "capability": ""},
}
ELSEWHERE = OTHERS["another GPU"]
HERE = {"version": "11.4.0", "gpu": "Fake GPU", "capability": "9.0"}  # what the fakes of CUDA and TensorRT say
PORTABLE = {"gpu": "portable", "capability": ""}


def compilation(**changes: Any) -> Compilation:
    """One without plans, for the fakes' machine."""
    return Compilation(**({"library": "tensorrt", "options": EngineOptions().to_text(), **HERE} | changes))


def add_plans(folder: Path, lacking: tuple[str, ...] = (FACE_DETECTOR,), onnx: bool = True, **changes: Any) -> Path:
    """Give the engines of a bundle plans, on top of those that it has; changes are of the compilation."""
    manifest, made = read_manifest(folder), compilation(**changes)
    plans = {name: made.plan_name(name) for name in manifest.engines if name not in lacking}
    for name, plan in plans.items():
        (folder / plan).write_text(f"plan of {name}, {made.describe()}")
    files = {**manifest.files, **{plan: file_entry(folder / plan) for plan in plans.values()}}
    compiled = (*manifest.compiled, dataclasses.replace(made, plans=plans))
    changed = dataclasses.replace(manifest, target=made.library, files=files, compiled=compiled, onnx=onnx)
    write_manifest(folder, changed)
    for name in changed.absent:
        (folder / name).unlink()
    return folder


class FakeBuilder:
    """Stands in for `build_engine`.

    built: the engines, in order.  options: of each.  work: called with the engine's name before anything is written.
    """

    def __init__(self) -> None:
        self.built: list[str] = []
        self.options: list[EngineOptions] = []
        self.work: Callable[[str], object] = lambda name: None

    def __call__(
        self, onnx: Path, spec: EngineSpec, output: Path, library: Library, options: EngineOptions,
        progress: Callable[[float], object] | None = None,
    ) -> BuildInfo:  # fmt: skip
        assert onnx.is_file()
        self.built.append(spec.name)
        self.options.append(options)
        for done in (0.5, 1.0):
            if progress is not None:
                progress(done)
        self.work(spec.name)
        output.write_text(f"new plan of {spec.name} by {library.version}")
        return BuildInfo(0.1, output.stat().st_size, None)


def installed_builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBuilder]:
    """What a fixture yields from: the stand-in where plans are compiled, on a machine with a GPU and TensorRT, both
    fakes, where ONNX Runtime is there for the CPU alone.
    """
    for cuda in installed(monkeypatch, CAPACITY):
        monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(cuda))  # type: ignore[arg-type]
        monkeypatch.setattr("vexpress_rt.backends.registry.onnxruntime", FakeBackend())
        fake = FakeBuilder()
        monkeypatch.setattr(compiler, "build_engine", fake)
        monkeypatch.setattr(Library, "polygraphy", lambda self: nullcontext())
        yield fake
