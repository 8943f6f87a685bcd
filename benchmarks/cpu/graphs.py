"""Export engines of one model with and without optimisations, and return the calls to measure."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.cpu.upstream import UpstreamDenoiser
from export.build.parity import random_inputs
from export.networks.architecture import Architecture
from export.networks.denoising_unet import DenoisingUNet
from export.networks.registry import NETWORKS
from export.onnx import trace as traced
from export.onnx.engine_modules import ENGINE_NETWORKS, Engine, make_engine
from export.onnx.graph import WeightsFile
from export.onnx.lower_fused import FORMS
from export.onnx.lowering_framework import HANDLERS, Lowering
from export.onnx.to_onnx import to_onnx
from vexpress_rt.backends.base import Array
from vexpress_rt.backends.onnxruntime.engine import cpu_options, load
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec, VideoShape, engine_specs

Call = Callable[[], Sequence[Array]]
Entries = Mapping[str, str]


class Graphs:
    """Engines of an architecture with random weights.

    Args:
        architecture: Sizes of the networks.
        shape: Size of videos and windows.
        folder: Folder for the files.
        threads: CPU threads.

    Attributes:
        threads: CPU threads.
    """

    def __init__(self, architecture: Architecture, shape: VideoShape, folder: Path, threads: int) -> None:
        torch.manual_seed(0)
        onnxruntime.set_default_logger_severity(3)  # it would warn about options that are set twice
        self._architecture, self._folder, self.threads = architecture, folder, threads
        self._specs = engine_specs(architecture.model_config(), shape)
        self._networks: dict[str, nn.Module] = {}
        self._weights: dict[tuple[str, ...], WeightsFile] = {}
        self._paths: dict[tuple[str, ...], Path] = {}

    def call(self, engine: str, *, leave_out: Collection[str] = ()) -> Call:
        """Return a call that runs an engine with all of FORMS except `leave_out`."""
        spec = self._specs[engine]
        return self._run(self.path(engine, leave_out), spec)

    def has(self, engine: str, form: str) -> bool:
        """Return whether a shipped engine contains a form of FORMS."""
        graphs = (
            onnx.load(path, load_external_data=False).graph for path in (self.path(engine), self.path(engine, [form]))
        )
        whole, without = ([node.op_type for node in graph.node] for graph in graphs)
        return whole != without

    def session_call(self, engine: str, entries: Entries, *, bound: bool = False, **attributes: Any) -> Call:
        """Return a call that runs a shipped engine in a session with other options.

        Args:
            engine: Name of the engine.
            entries: Entries of the session's configuration.
            bound: Whether inputs and outputs are bound once for all runs.
            **attributes: Attributes of SessionOptions.
        """
        options = cpu_options(onnxruntime, self.threads)
        for name, value in entries.items():
            options.add_session_config_entry(name, value)
        for name, value in attributes.items():
            setattr(options, name, value)
        session, spec = self._session(engine, options), self._specs[engine]
        feed = _feed(spec)
        if not bound:
            return lambda: session.run(None, feed)
        binding = session.io_binding()
        for name, array in feed.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        outputs = [onnxruntime.OrtValue.ortvalue_from_shape_and_type(t.shape, np.float32) for t in spec.outputs]
        for tensor, value in zip(spec.outputs, outputs, strict=True):
            binding.bind_ortvalue_output(tensor.name, value)
        session.run_with_iobinding(binding)

        def run() -> Sequence[Array]:
            session.run_with_iobinding(binding)
            return [value.numpy() for value in outputs]

        return run

    def upstream_call(self) -> Call:
        """Return a call that runs the denoiser in upstream's order (`benchmarks.cpu.upstream`), with all of FORMS."""
        engine = _UpstreamEngine(self._specs["denoiser"], self._network("denoising_unet"))
        with _upstream_handlers():
            path = self._export(("upstream",), engine, FORMS)
        return self._run(path, engine.spec)

    def profile(self, engine: str, runs: int) -> list[dict[str, Any]]:
        """Return the node events that ONNX Runtime's profiler records in `runs` runs after a warm-up."""
        options = cpu_options(onnxruntime, self.threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(self._folder / "profile")
        session, feed = self._session(engine, options), _feed(self._specs[engine])
        for _ in range(runs + 1):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        return nodes[len(nodes) // (runs + 1) :]

    def _session(self, engine: str, options: Any) -> Any:
        return onnxruntime.InferenceSession(str(self.path(engine)), options, providers=["CPUExecutionProvider"])

    def path(self, engine: str, leave_out: Collection[str] = ()) -> Path:
        """Return the file of an engine with all of FORMS except `leave_out`."""
        key = (engine, *sorted(leave_out))
        if key not in self._paths:
            forms = [form for form in FORMS if form not in leave_out]
            self._paths[key] = self._export(key, self._engine(engine), forms)
        return self._paths[key]

    def _export(self, key: tuple[str, ...], engine: Engine, forms: Collection[str]) -> Path:
        path = self._folder / f"{'-'.join(key)}.onnx"
        networks = ENGINE_NETWORKS[engine.spec.name]
        if networks not in self._weights:
            self._weights[networks] = WeightsFile(self._folder / f"{'-'.join(networks)}.weights")
        to_onnx(engine, path, self._weights[networks], forms=forms)
        return path

    def _run(self, path: Path, spec: EngineSpec) -> Call:
        engine, feed = load(path, spec, threads=self.threads), _feed(spec)
        return lambda: list(engine.run(feed).values())

    def _engine(self, name: str) -> Engine:
        networks = {network: self._network(network) for network in ENGINE_NETWORKS[name]}
        return make_engine(self._specs[name], networks, torch.float32)

    def _network(self, name: str) -> nn.Module:
        if name not in self._networks:
            self._networks[name] = NETWORKS[name](self._architecture).eval()
        return self._networks[name]


class _UpstreamEngine(Engine):
    """An engine of `UpstreamDenoiser`, whose inputs are reference features instead of keys and values."""

    def __init__(self, spec: EngineSpec, unet: nn.Module) -> None:
        assert isinstance(unet, DenoisingUNet)
        keys = [t for t in spec.inputs if t.name.startswith("reference_key/")]
        others = tuple(t for t in spec.inputs if not t.name.startswith(("reference_key/", "reference_value/")))
        super().__init__(replace(spec, inputs=(*others, *map(_feature, keys))), {"denoising_unet": unet}, torch.float32)
        self.upstream = UpstreamDenoiser(unet)
        self._sites = [key.name.partition("/")[2] for key in keys]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the predictions for inputs in the specification's order."""
        features = dict(zip(self._sites, inputs[-len(self._sites) :], strict=True))
        result: tuple[Tensor, ...] = self.upstream(*inputs[: -len(self._sites)], features)
        return result


def _feature(key: TensorSpec) -> TensorSpec:
    """Return the feature input (1, S, heads * E) that replaces a key input (heads, S, E)."""
    heads, tokens, size = (n or 0 for n in key.shape)
    return replace(
        key, name=key.name.replace("reference_key", "feature"), dims=("1", "S", "C"), shape=(1, tokens, heads * size)
    )


@contextmanager
def _upstream_handlers() -> Iterator[None]:
    """Add the lowerings of operations that only upstream's order needs."""

    def zeros(lo: Lowering, call: traced.Call) -> list[str]:
        return [lo.graph.constant(torch.zeros([size or 0 for size in call.args[0].shape]))]

    def repeat(lo: Lowering, call: traced.Call) -> list[str]:
        x, *times = call.args
        return [lo.graph.add("Tile", [lo.name(x), lo.graph.ints(*times)])]

    own = {"zeros_like": zeros, "repeat": repeat}
    HANDLERS.update(own)
    try:
        yield
    finally:
        for name in own:
            del HANDLERS[name]


def _feed(spec: EngineSpec) -> dict[str, Array]:
    return dict(zip((t.name for t in spec.inputs), random_inputs(spec), strict=True))


@dataclass(frozen=True)
class Pair:
    """Two calls that compute the same.

    Attributes:
        without: Call without the optimisation.
        with_it: Call with the optimisation.
        equal: Whether both results are compared; False if the calls have different inputs.
    """

    without: Call
    with_it: Call
    equal: bool = True
