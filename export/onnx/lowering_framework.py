"""The framework that lowers traced torch calls to ONNX nodes; the lowerings are in `lower` and `lower_fused`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from export.errors import ExportError
from export.onnx.graph import ONNX_DTYPES, Graph
from export.onnx.trace import Call, Trace, Value

HANDLERS: dict[str, Callable[[Lowering, Call], list[str]]] = {}


def handles(*names: str) -> Callable[[Any], Any]:
    """Register a function as the lowering of calls to torch functions.

    Args:
        names: Names of the torch functions.

    Returns:
        A decorator. The decorated function takes the `Lowering` and the arguments of the call, in which tensors are
        `Value`s; it returns the name of the ONNX output, or a list of names.
    """

    def register(function: Any) -> Any:
        signature = inspect.signature(function)

        def lower(lowering: Lowering, call: Call) -> list[str]:
            try:
                bound = signature.bind(lowering, *call.args, **call.kwargs)
            except TypeError as error:
                lowering.refuse(f"{error} in its lowering")
            return _as_list(function(*bound.args, **bound.kwargs))

        HANDLERS.update(dict.fromkeys(names, lower))
        return function

    return register


def _as_list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


class Lowering:
    """The state of a lowering.

    Attributes:
        trace: The calls to lower.
        graph: The graph that nodes are added to.
        names: ONNX names by the identity of the traced value.
        constants: Numbers of the constants that are not weights, by the identity of the value.
        call: The call that is being lowered.
    """

    def __init__(self, trace: Trace, graph: Graph):
        """Start a lowering.

        Args:
            trace: The calls to lower.
            graph: The graph to add nodes to; its inputs have the names of the traced inputs.
        """
        self.trace, self.graph = trace, graph
        self.constants: dict[int, int] = {}
        self.call = Call("", lambda: None, (), {})
        self.names: dict[int, str] = {id(v): v.input for v in trace.inputs if v.input is not None}

    def run(self, output_names: Sequence[str]) -> None:
        """Lower all calls, then name the outputs.

        Args:
            output_names: One for each output of the trace.

        Raises:
            ExportError: A call has no lowering, or its lowering does not support the arguments.
        """
        for call in self.trace.calls:
            self.call = call
            if call.name not in HANDLERS:
                self.refuse("there is no lowering for it")
            names = HANDLERS[call.name](self, call)
            self.names.update({id(v): name for v, name in zip(call.outputs, names, strict=True)})
        for value, name in zip(self.trace.outputs, output_names, strict=True):
            self.graph.rename(self.name(value), name)
            self.names[id(value)] = name

    def refuse(self, reason: str) -> NoReturn:
        """Refuse the call that is being lowered.

        Args:
            reason: Why it cannot be lowered.

        Raises:
            ExportError: Always.
        """
        raise ExportError(
            f"torch function {self.call.name!r} cannot be exported: {reason}: extend export/onnx/lower.py"
        )

    @property
    def output(self) -> Value:
        """The first output of the call that is being lowered."""
        return self.call.outputs[0]

    def name(self, value: Value, suffix: str = "", change: Callable[[torch.Tensor], torch.Tensor] | None = None) -> str:
        """Return the ONNX name of a value. A weight or constant becomes an initializer.

        Args:
            value: A value of the trace.
            suffix: End of the initializer's name, if `change` is given.
            change: Applied to the values of the initializer.
        """
        if id(value) in self.names and change is None:
            return self.names[id(value)]
        assert value.constant, "a value was used before it was computed"
        base = value.weight or f"constant_{self.constants.setdefault(id(value), len(self.constants))}"

        def make() -> torch.Tensor:
            tensor = self.trace.constant(value)
            return tensor if change is None else change(tensor)

        return self.graph.weight(base + suffix, make)

    def operand(self, x: Any, like: torch.dtype) -> str:
        """Return the ONNX name of an operand.

        Args:
            x: A `Value`, which is cast if necessary, or a Python number, which becomes a constant.
            like: Dtype of the operand.
        """
        if isinstance(x, Value):
            return self.name(x) if x.dtype == like else self.graph.add("Cast", [self.name(x)], to=ONNX_DTYPES[like])
        return self.graph.constant(torch.tensor(x, dtype=like))
