"""The exporter's torch modules behind the runtime's interface of an engine, so that both are timed alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from export.checkpoint.reader import Checkpoint
from export.onnx.engine_modules import ENGINE_NETWORKS, TORCH_DTYPES, make_engine
from vexpress_rt.bundle.engine_spec import PRECISIONS, EngineSpec, ModelConfig, VideoShape, engine_specs

Tensors = dict[str, torch.Tensor]


class TorchEngine:
    """An `Engine` of `vexpress_rt.backends.base`, whose residents are tensors of torch on `device`."""

    def __init__(self, spec: EngineSpec, module: Callable[..., Any], device: str) -> None:
        self.spec, self.module, self.device = spec, module, device

    def run(self, inputs: Mapping[str, Any], *, keep_on_device: bool = False) -> dict[str, Any]:
        """Outputs by name: tensors on the device, still being computed, or arrays.

        inputs: arrays or tensors by name.
        """
        with torch.inference_mode():
            given = [self._tensor(inputs[tensor.name]) for tensor in self.spec.inputs]
            result = self.module(*given)
        outputs = [result] if isinstance(result, torch.Tensor) else result
        named = dict(zip((tensor.name for tensor in self.spec.outputs), outputs, strict=True))
        return named if keep_on_device else {name: tensor.cpu().numpy() for name, tensor in named.items()}

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
        self._checkpoint, self._activation = checkpoint, TORCH_DTYPES[PRECISIONS[precision]]
        self._specs = engine_specs(self.model, shape, precision)
        self._networks: dict[str, nn.Module] = {}
        self._engines: dict[str, TorchEngine] = {}

    def get(self, name: str) -> TorchEngine:
        """The engine `name`, loaded when first asked for."""
        if name not in self._engines:
            networks = {network: self.network(network) for network in ENGINE_NETWORKS[name]}
            spec = self._specs[name]
            self._engines[name] = TorchEngine(spec, make_engine(spec, networks, self._activation), self.device)
        return self._engines[name]

    def network(self, name: str) -> nn.Module:
        """The network `name` of the checkpoint, on the device; engines share it."""
        if name not in self._networks:
            self._networks[name] = self._checkpoint.network(name, self._activation).to(self.device)
        return self._networks[name]

    def compile(self, name: str) -> None:
        """Replace an engine's module by what `torch.compile` makes of it, which happens when it first runs."""
        engine = self.get(name)
        engine.module = torch.compile(engine.module, dynamic=False)


def _closed(*inputs: torch.Tensor) -> None:
    raise RuntimeError("this engine was closed; make it anew")
