"""What all backends ask of a call: that it fits the engine's specification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from vexpress_rt.backends.base import Array, DeviceTensor, Tensor
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec, interface_errors
from vexpress_rt.errors import BackendError, BundleDamagedError


def describe(name: str, tensor: Tensor) -> TensorSpec:
    """A tensor as it is."""
    return TensorSpec(name, tuple(str(size) for size in tensor.shape), tuple(tensor.shape), str(tensor.dtype))


def check_inputs(spec: EngineSpec, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a call, arrays contiguous.

    Raises BackendError naming every one that is missing, unknown, or of another shape or dtype.
    """
    feed = {
        name: tensor if isinstance(tensor, DeviceTensor) else np.asarray(tensor, order="C")
        for name, tensor in inputs.items()
    }
    given = EngineSpec(spec.name, tuple(describe(name, tensor) for name, tensor in feed.items()), ())
    if wrong := interface_errors(given, EngineSpec(spec.name, spec.inputs, ()), arrays=True):
        raise BackendError(f"a call of engine {spec.name} does not fit it: {'; '.join(wrong)}")
    return feed


def check_outputs(spec: EngineSpec, outputs: Mapping[str, Array]) -> None:
    """Raise BackendError naming every output that is not as specified."""
    given = EngineSpec(spec.name, (), tuple(describe(name, array) for name, array in outputs.items()))
    if wrong := interface_errors(given, EngineSpec(spec.name, (), spec.outputs), arrays=True):
        raise BackendError(
            f"engine {spec.name} gave what it should not: {'; '.join(wrong)}: "
            f"build it again with `python -m export.build --engine {spec.name}`"
        )


def check_interface(path: object, found: EngineSpec, expected: EngineSpec) -> None:
    """Raise BundleDamagedError naming all inputs and outputs of the engine in the file `path` that differ."""
    if wrong := interface_errors(found, expected):
        raise BundleDamagedError(
            f"{path} is not the engine {expected.name} of this bundle: {'; '.join(wrong)}: "
            f"build it again with `python -m export.build --engine {expected.name}`"
        )


def only_input(spec: EngineSpec) -> str:
    """The name of the one input. Raises BackendError if there are more."""
    if len(spec.inputs) != 1:
        names = ", ".join(tensor.name for tensor in spec.inputs)
        raise BackendError(f"engine {spec.name} takes {names}; expected one input: pass them by name")
    return spec.inputs[0].name


def refuse_closed(spec: EngineSpec) -> NoReturn:
    """Raise the BackendError of an engine that was closed."""
    raise BackendError(f"engine {spec.name} was closed; load it again to run it")


def error_text(error: Exception) -> str:
    """Return the message of a library's exception on one line of at most 1000 characters."""
    return " ".join(str(error).split())[:1000] or type(error).__name__
