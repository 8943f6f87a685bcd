"""From an exported graph on to the plan that TensorRT runs, for the targets that have one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vexpress_rt import device
from vexpress_rt.backends import tensorrt_library
from vexpress_rt.backends.tensorrt_builder import build_engine
from vexpress_rt.backends.tensorrt_options import EngineOptions, audio_range
from vexpress_rt.errors import BackendError
from vexpress_rt.specs import EngineSpec, ModelConfig

PORTABLE = "portable"


class Compiler:
    """Compiles graphs for one target and machine.

    target: `tensorrt` or `tensorrt-rtx`.  model: says how short a clip may be.
    Raises BackendMissingError without the library; BackendError without a GPU where the library builds on none.
    """

    def __init__(self, target: str, options: EngineOptions, model: ModelConfig):
        self.library = tensorrt_library.load(target)
        self.options = replace(options, ranges={"N": audio_range(model)})
        if not self.library.builds_without_gpu and device.count() == 0:
            raise BackendError(
                f"{self.library.title} builds on the GPU that will run the engines, and none was found: build on that "
                "machine, or with --target tensorrt-rtx, which needs none"
            )

    def identity(self) -> dict[str, str]:
        """What plans depend on besides their graph, for the manifest: library, version, GPU, options."""
        portable = self.library.is_portable(hardware_compatible=self.options.hardware_compatible)
        gpu, capability = (PORTABLE, "") if portable else _gpu()
        options = json.dumps(self.options.to_json(), sort_keys=True)
        return {
            "library": self.library.target,
            "version": self.library.version,
            "gpu": gpu,
            "capability": capability,
            "options": options,
        }

    def compile(self, graph: Path, spec: EngineSpec, report: Callable[[str], None]) -> Path:
        """Build `graph` into a plan beside it."""
        plan = graph.with_suffix(".plan")
        info = build_engine(graph, spec, plan, self.library, self.options)
        memory = "" if info.activation_bytes is None else f", {info.activation_bytes / 1e6:.0f} MB of activations"
        report(f"{self.library.name}: {info.bytes / 1e6:.1f} MB in {info.seconds:.1f} s{memory}")
        return plan


def _gpu() -> tuple[str, str]:
    name, (major, minor) = device.name_and_capability()
    return name, f"{major}.{minor}"
