"""Graphs to plans on this machine: what `export.build` does and what a bundle does when it meets another machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.backends.tensorrt.builder import BuildInfo, build_engine
from vexpress_rt.backends.tensorrt.library import Library
from vexpress_rt.backends.tensorrt.options import EngineOptions
from vexpress_rt.bundle.compilation import PORTABLE, Compilation, Machine
from vexpress_rt.bundle.engine_spec import EngineSpec
from vexpress_rt.errors import BackendError


@dataclass(frozen=True)
class Compiler:
    """A library with its options; made by `Compiler.here`.

    compilation: the record of what it makes on this machine, as yet without plans.
    """

    library: Library
    options: EngineOptions
    compilation: Compilation

    @classmethod
    def here(cls, target: str, options: EngineOptions, bundle: Path) -> Compiler:
        """That of a target, on this machine. Timings are kept beside the folder `bundle` unless `options` name a file.

        Raises BackendMissingError without the library or Polygraphy; BackendError without a GPU where the library
        builds on none, and where Polygraphy already works with the other library.
        """
        library = tensorrt_library.load(target)
        if not library.builds_without_gpu and runtime.count() == 0:
            raise BackendError(
                f"{library.title} builds on the GPU that will run the engines, and none was found: build on that "
                "machine, or with --target tensorrt-rtx, which needs none"
            )
        with library.polygraphy():  # known now rather than after an export of minutes
            pass
        if options.timing_cache is None and library.has_timing_cache:
            options = replace(options, timing_cache=_timing_cache(library, bundle))
        portable = library.is_portable(hardware_compatible=options.hardware_compatible)
        here = Machine(library.version, PORTABLE, "") if portable else machine(library)
        return cls(
            library,
            options,
            Compilation(
                library=target,
                version=here.version,
                gpu=here.gpu,
                capability=here.capability,
                options=options.to_text(),
            ),
        )

    def compile(
        self, graph: Path, spec: EngineSpec, folder: Path, progress: Callable[[float], object] | None = None
    ) -> tuple[str, BuildInfo]:
        """Build the plan of the file `graph` in `folder`: its name there, and the build. Raises as `build_engine`."""
        plan = self.compilation.plan_name(spec.name)
        return plan, build_engine(graph, spec, folder / plan, self.library, self.options, progress)


def machine(library: Library) -> Machine:
    """What plans of this library have to fit here. Raises BackendError without a GPU."""
    runtime.check()
    name, (major, minor) = runtime.name_and_capability()
    return Machine(library.version, name, f"{major}.{minor}")


def _timing_cache(library: Library, bundle: Path) -> Path | None:
    """Beside the bundle, so that it outlives it; one for each kind of GPU and version, for no other can use it."""
    folder = bundle.resolve().parent
    if not os.access(folder, os.W_OK):
        return None
    here = machine(library)
    words = re.sub(r"[^A-Za-z0-9.]+", "-", f"{library.target} {here.version} {here.gpu}")
    return folder / f".timing-{words}.cache"
