"""Checks of calls and of loaded engines against an engine's specification, for all backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from vexpress_rt.backends.base import Array, DeviceTensor, Tensor
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec, interface_errors
from vexpress_rt.errors import BackendError, BundleDamagedError
from vexpress_rt.utils.project_links import EXPORTER


def describe(name: str, tensor: Tensor) -> TensorSpec:
    """Return the name, shape and dtype of a tensor as a `TensorSpec`.

    Args:
        name: The name of the input or output.
        tensor: The tensor.
    """
    return TensorSpec(name, tuple(str(size) for size in tensor.shape), tuple(tensor.shape), str(tensor.dtype))


def check_inputs(spec: EngineSpec, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Check the inputs of a call, and return them with contiguous arrays.

    Args:
        spec: The engine's inputs and outputs.
        inputs: The inputs by name.

    Raises:
        BackendError: An input is missing, unknown, or of another shape or dtype; the message names every one.
    """
    feed = {
        name: tensor if isinstance(tensor, DeviceTensor) else np.asarray(tensor, order="C")
        for name, tensor in inputs.items()
    }
    given = EngineSpec(spec.name, tuple(describe(name, tensor) for name, tensor in feed.items()), ())
    if wrong := interface_errors(given, EngineSpec(spec.name, spec.inputs, ()), arrays=True):
        raise BackendError(f"engine {spec.name} was called with wrong inputs: {'; '.join(wrong)}")
    return feed


def check_arrays(spec: EngineSpec, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
    """Check the inputs of a call of an engine that takes arrays alone, and return them contiguous.

    Args:
        spec: The engine's inputs and outputs.
        inputs: The inputs by name.

    Raises:
        BackendError: As `check_inputs`, or an input is a DeviceTensor.
    """
    feed = check_inputs(spec, inputs)
    arrays = {name: tensor for name, tensor in feed.items() if not isinstance(tensor, DeviceTensor)}
    if on_gpu := [name for name in feed if name not in arrays]:
        raise BackendError(
            f"engine {spec.name} takes arrays and {', '.join(on_gpu)} is on the GPU: pass the array that its numpy() "
            "returns"
        )
    return arrays


def check_outputs(spec: EngineSpec, outputs: Mapping[str, Array]) -> None:
    """Check the outputs of a call.

    Args:
        spec: The engine's inputs and outputs.
        outputs: The outputs by name.

    Raises:
        BackendError: An output differs from the specification; the message names every one.
    """
    given = EngineSpec(spec.name, (), tuple(describe(name, array) for name, array in outputs.items()))
    if wrong := interface_errors(given, EngineSpec(spec.name, (), spec.outputs), arrays=True):
        raise BackendError(
            f"engine {spec.name} returned other outputs than specified: {'; '.join(wrong)}: "
            f"build it again with `python -m export.build --engine {spec.name}` {EXPORTER}"
        )


def check_interface(path: object, found: EngineSpec, expected: EngineSpec) -> None:
    """Check the inputs and outputs of an engine.

    Args:
        path: The engine's file, for the message.
        found: The engine's inputs and outputs.
        expected: The inputs and outputs that the bundle records.

    Raises:
        BundleDamagedError: They differ; the message names every input and output.
    """
    if wrong := interface_errors(found, expected):
        raise BundleDamagedError(
            f"{path} is not the engine {expected.name} of this bundle: {'; '.join(wrong)}: "
            f"build it again with `python -m export.build --engine {expected.name}` {EXPORTER}"
        )


def only_input(spec: EngineSpec) -> str:
    """Return the name of an engine's only input. Raises BackendError if there are several."""
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
