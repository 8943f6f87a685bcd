"""A stand-in for the TensorRT builder that writes text files as plans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vexpress_rt.backends.tensorrt.builder import BuildInfo
from vexpress_rt.backends.tensorrt.library import Library
from vexpress_rt.backends.tensorrt.options import EngineOptions
from vexpress_rt.bundle.engine_spec import EngineSpec


class FakeBuilder:
    """A stand-in for `build_engine`.

    Attributes:
        built: Names of the engines, in order.
        options: Options of each of them.
        work: Called with the name of an engine before its plan is written.
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
