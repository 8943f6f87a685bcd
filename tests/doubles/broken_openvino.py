"""A Core of OpenVINO whose reduced precision is broken: it changes outputs of compiled models by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vexpress_rt.backends.base import Array

HINT = "INFERENCE_PRECISION_HINT"
Fault = Callable[[str, Array], Array]  # name and values of an output -> what is returned instead


class BrokenCore:
    """A Core that computes in float32 on the CPU, and passes results of reduced precision through a fault.

    Attributes:
        fault: Changes an output of reduced precision.
        chip: The name of the device.
        compiled: Device and configuration of each compiled model.
        failure: Raised in place of compiling for reduced precision, if given.
    """

    def __init__(self, core: Any, fault: Fault = lambda name, values: values, failure: Exception | None = None) -> None:
        self.fault = fault
        self.chip = "a chip"
        self.compiled: list[tuple[str, Mapping[str, Any]]] = []
        self.failure = failure
        self._core = core

    def get_property(self, device: str, name: str) -> str:
        assert name == "FULL_DEVICE_NAME"
        return self.chip

    def compile_model(self, model: Any, device: str, configuration: Mapping[str, Any]) -> Any:
        self.compiled.append((device, configuration))
        reduced = configuration[HINT] != "f32"
        if reduced and self.failure is not None:
            raise self.failure
        compiled = self._core.compile_model(model, "CPU", {HINT: "f32"})
        return _Broken(compiled, self.fault) if reduced else compiled


class _Broken:
    """A compiled model, and its own request, with a fault."""

    def __init__(self, compiled: Any, fault: Fault) -> None:
        self.outputs = compiled.outputs
        self._compiled = compiled
        self._fault = fault

    def create_infer_request(self) -> _Broken:
        return self

    def infer(self, inputs: Any) -> dict[Any, Array]:
        found = self._compiled.create_infer_request().infer(inputs)
        return {port: self._fault(port.any_name, np.array(found[port])) for port in self.outputs}


def noise(decibels: float, where: Callable[[str], bool] = lambda name: True) -> Fault:
    """Return a fault that adds noise to the outputs with the names that `where` accepts.

    Args:
        decibels: Signal to noise.
        where: Accepts a name.
    """

    def add(name: str, values: Array) -> Array:
        if not where(name):
            return values
        random = np.random.default_rng(len(name)).standard_normal(values.shape)
        power = np.square(values).sum() / np.square(random).sum()
        return values + random * power**0.5 * 10 ** (-decibels / 20)

    return add
