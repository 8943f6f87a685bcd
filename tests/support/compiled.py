"""Bundles with plans for chosen machines, and a fixture with a stand-in builder."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.fake_builder import FakeBuilder
from tests.doubles.fake_cuda import installed
from tests.doubles.fake_tensorrt import FakeTensorRT
from tests.doubles.fakes import FakeBackend
from tests.support.engines import CAPACITY
from vexpress_rt.backends.tensorrt import builder
from vexpress_rt.backends.tensorrt.library import Library
from vexpress_rt.backends.tensorrt.options import EngineOptions
from vexpress_rt.bundle.bundle import file_entry
from vexpress_rt.bundle.compilation import Compilation
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.bundle.manifest import read_manifest, write_manifest

OTHERS = {  # machines whose plans do not run on the stand-in machine, and vice versa
    "another GPU": {"gpu": "NVIDIA A100", "capability": "8.0"},
    "another model of the same capability": {"gpu": "NVIDIA H200"},
    "another version": {"version": "10.14.1"},
    "another version, portable": {"version": "10.14.1", "gpu": "portable", "capability": ""},
}
ELSEWHERE = OTHERS["another GPU"]
HERE = {"version": "11.4.0", "gpu": "Fake GPU", "capability": "9.0"}  # as the stand-ins of CUDA and TensorRT report it
PORTABLE = {"gpu": "portable", "capability": ""}


def compilation(**changes: Any) -> Compilation:
    """Return a compilation without plans, for the stand-in machine."""
    return Compilation(**({"library": "tensorrt", "options": EngineOptions().to_text(), **HERE} | changes))


def add_plans(folder: Path, lacking: tuple[str, ...] = (FACE_DETECTOR,), onnx: bool = True, **changes: Any) -> Path:
    """Add plans to the engines of a bundle. changes: fields of the compilation."""
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


def installed_builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBuilder]:
    """Yield a stand-in builder on a machine with stand-ins of a GPU and TensorRT; ONNX Runtime has the CPU alone."""
    for cuda in installed(monkeypatch, CAPACITY):
        monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(cuda))  # type: ignore[arg-type]
        FakeBackend().install(monkeypatch)
        fake = FakeBuilder()
        monkeypatch.setattr(builder, "build_engine", fake)
        monkeypatch.setattr(Library, "polygraphy", lambda self: nullcontext())
        yield fake
