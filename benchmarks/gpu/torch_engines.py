"""The exporter's PyTorch modules behind the runtime's `Engine` interface, so that both are timed alike."""

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
    """An `Engine` of `vexpress_rt.backends.base` whose device tensors are PyTorch tensors on `device`."""

    def __init__(self, spec: EngineSpec, module: Callable[..., Any], device: str) -> None:
        self.spec, self.module, self.device = spec, module, device

    def run(self, inputs: Mapping[str, Any], *, keep_on_device: bool = False) -> dict[str, Any]:
        """Return outputs by name: tensors on the device, possibly still being computed, or arrays.

        Args:
            inputs: Arrays or tensors by name.
            keep_on_device: Whether to return tensors.
        """
        with torch.inference_mode():
            given = [self._tensor(inputs[tensor.name]) for tensor in self.spec.inputs]
            result = self.module(*given)
        outputs = [result] if isinstance(result, torch.Tensor) else result
        named = dict(zip((tensor.name for tensor in self.spec.outputs), outputs, strict=True))
        return named if keep_on_device else {name: _array(tensor) for name, tensor in named.items()}

    def run_positional(self, array: np.ndarray) -> list[np.ndarray]:
        """Return all outputs in order, of an engine with one input."""
        return list(self.run({self.spec.inputs[0].name: array}).values())

    def close(self) -> None:
        """Release the module."""
        self.module = _closed

    def _tensor(self, value: Any) -> torch.Tensor:
        return (torch.from_numpy(value) if isinstance(value, np.ndarray) else value).to(self.device)


class TorchEngines:
    """All engines of a bundle as PyTorch modules.

    Some modules create tensors, so `device` must be PyTorch's default device when they run.

    Args:
        checkpoint: The weights.
        shape: Size of videos and windows.
        precision: One of `engine_spec.PRECISIONS`.
        device: PyTorch's name of the device.
    """

    def __init__(self, checkpoint: Checkpoint, shape: VideoShape, precision: str, device: str) -> None:
        self.model: ModelConfig = checkpoint.architecture.model_config()
        self.shape, self.device = shape, device
        self._checkpoint, self._activation = checkpoint, TORCH_DTYPES[PRECISIONS[precision]]
        self._specs = engine_specs(self.model, shape, precision)
        self._networks: dict[str, nn.Module] = {}
        self._engines: dict[str, TorchEngine] = {}

    def get(self, name: str) -> TorchEngine:
        """Return an engine, loaded at its first use."""
        if name not in self._engines:
            networks = {network: self.network(network) for network in ENGINE_NETWORKS[name]}
            spec = self._specs[name]
            self._engines[name] = TorchEngine(spec, make_engine(spec, networks, self._activation), self.device)
        return self._engines[name]

    def network(self, name: str) -> nn.Module:
        """Return a network of the checkpoint on the device; engines share it."""
        if name not in self._networks:
            self._networks[name] = self._checkpoint.network(name, self._activation).to(self.device)
        return self._networks[name]

    def compile(self, name: str) -> None:
        """Compile an engine with `torch.compile`, which happens in its first run."""
        engine = self.get(name)
        engine.module = torch.compile(engine.module, dynamic=False)


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Return an array; of bfloat16, which NumPy lacks and autocast gives, in float32."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def _closed(*inputs: torch.Tensor) -> None:
    raise RuntimeError("this engine is closed: create a new one")
