"""The exporter's torch modules behind the runtime's interface of an engine, so that both are timed alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from export.checkpoint import Checkpoint
from export.engines import ENGINE_NETWORKS, TORCH_DTYPES, make_engine
from vexpress_rt.specs import ENGINE_NAMES, PRECISIONS, EngineSpec, ModelConfig, VideoShape, engine_specs

Tensors = dict[str, torch.Tensor]


class TorchEngine:
    """An `Engine` of `vexpress_rt.backends`, whose residents are tensors of torch on `device`."""

    def __init__(self, spec: EngineSpec, module: Callable[..., Any], device: str) -> None:
        self.spec, self.module, self.device = spec, module, device

    def run(self, inputs: Mapping[str, Any], *, resident: bool = False) -> dict[str, Any]:
        """Outputs by name: tensors on the device, still being computed, or arrays.

        inputs: arrays or tensors by name.
        """
        with torch.inference_mode():
            given = [self._tensor(inputs[tensor.name]) for tensor in self.spec.inputs]
            result = self.module(*given)
        outputs = [result] if isinstance(result, torch.Tensor) else result
        named = dict(zip((tensor.name for tensor in self.spec.outputs), outputs, strict=True))
        return named if resident else {name: tensor.cpu().numpy() for name, tensor in named.items()}

    def run_positional(self, array: np.ndarray) -> list[np.ndarray]:
        """All outputs in order, of an engine with one input."""
        return list(self.run({self.spec.inputs[0].name: array}).values())

    def close(self) -> None:
        """Forget the module."""
        self.module = _closed

    def _tensor(self, value: Any) -> torch.Tensor:
        return (torch.from_numpy(value) if isinstance(value, np.ndarray) else value).to(self.device)


class TorchEngines:
    """All engines of `specs.py` as torch modules on `device`, with a checkpoint's weights in `precision`.

    Some modules make tensors of their own: `device` has to be torch's default when they run.
    """

    def __init__(self, checkpoint: Checkpoint, shape: VideoShape, precision: str, device: str) -> None:
        self.model: ModelConfig = checkpoint.architecture.model_config()
        self.shape, self.device = shape, device
        activation = TORCH_DTYPES[PRECISIONS[precision]]
        names = {network for networks in ENGINE_NETWORKS.values() for network in networks}
        networks = {name: checkpoint.network(name, activation).to(device) for name in sorted(names)}
        self._engines = {
            name: TorchEngine(spec, make_engine(spec, networks, activation), device)
            for name, spec in engine_specs(self.model, shape, precision).items()
        }
        assert set(self._engines) == set(ENGINE_NAMES)

    def get(self, name: str) -> TorchEngine:
        """The engine `name`."""
        return self._engines[name]

    def compile(self, name: str) -> None:
        """Replace an engine's module by what `torch.compile` makes of it, which happens when it first runs."""
        engine = self._engines[name]
        engine.module = torch.compile(engine.module, dynamic=False)


def _closed(*inputs: torch.Tensor) -> None:
    raise RuntimeError("this engine was closed; make it anew")
