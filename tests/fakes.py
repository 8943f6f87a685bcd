"""Engines that need no weights: they follow `specs.py` to the letter and compute something simple."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tests.factories import model_config
from vexpress_rt.backends import Tensor
from vexpress_rt.specs import EngineSpec, TensorSpec, VideoShape, engine_specs

Compute = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def fake_specs(frames: int = 8, side: int = 64) -> dict[str, EngineSpec]:
    """The engines of a bundle of side x side pixels and windows of `frames` frames."""
    return engine_specs(model_config(), VideoShape(side, side, frames))


class FakeEngine:
    """An `Engine` that checks what it is given, remembers it, and gives what `compute` makes of it.

    spec: what it takes and gives.  compute: inputs -> outputs; zeros of the right shape if left out.
    calls: the inputs of every call, copied, so that later changes to them do not show.
    """

    def __init__(self, spec: EngineSpec, compute: Compute | None = None) -> None:
        self.spec = spec
        self.calls: list[dict[str, Tensor]] = []
        self.closed = False
        self._compute = compute or self._zeros

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert not self.closed
        self._check(self.spec.inputs, inputs)
        self.calls.append({name: np.array(array) for name, array in inputs.items()})
        outputs = self._compute(inputs)
        self._check(self.spec.outputs, outputs)
        return outputs

    def run_positional(self, array: Tensor) -> list[Tensor]:
        (only,) = self.spec.inputs
        return list(self.run({only.name: array}).values())

    def close(self) -> None:
        self.closed = True

    def _zeros(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            tensor.name: np.zeros([7 if size is None else size for size in tensor.shape], tensor.dtype)
            for tensor in self.spec.outputs
        }

    def _check(self, expected: tuple[TensorSpec, ...], given: Mapping[str, Tensor]) -> None:
        assert set(given) == {tensor.name for tensor in expected}
        for tensor in expected:
            array = given[tensor.name]
            assert str(array.dtype) == tensor.dtype, tensor.describe()
            assert array.ndim == len(tensor.shape), tensor.describe()
            for found, size in zip(array.shape, tensor.shape, strict=True):
                assert size in (None, found), tensor.describe()
