"""The frame of a lowering from traced torch calls to ONNX nodes; the functions themselves are in `export.lower`."""

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
    """Register a lowering for calls of these torch functions; it gives the names of the outputs."""

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
    """The state of one lowering: which ONNX name each traced value has."""

    def __init__(self, trace: Trace, graph: Graph):
        self.trace, self.graph = trace, graph
        self.constants: dict[int, int] = {}  # numbers of the constants that are no weights, by identity of the value
        self.call = Call("", lambda: None, (), {})  # the one being lowered
        self.names: dict[int, str] = {id(v): v.input for v in trace.inputs if v.input is not None}

    def run(self, output_names: Sequence[str]) -> None:
        """Lower every call, then name the outputs."""
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
        """Raise ExportError about the call that is being lowered."""
        raise ExportError(f"torch function {self.call.name!r} cannot be exported: {reason}: mend export/lower.py")

    @property
    def output(self) -> Value:
        """The first output of the call that is being lowered."""
        return self.call.outputs[0]

    def name(self, value: Value, suffix: str = "", change: Callable[[torch.Tensor], torch.Tensor] | None = None) -> str:
        """The ONNX name of a value. Weights and constants become initializers, changed by `change` if given."""
        if id(value) in self.names and change is None:
            return self.names[id(value)]
        assert value.constant, "a value was used before it was computed"
        base = value.weight or f"constant_{self.constants.setdefault(id(value), len(self.constants))}"

        def make() -> torch.Tensor:
            tensor = self.trace.constant(value)
            return tensor if change is None else change(tensor)

        return self.graph.weight(base + suffix, make)

    def operand(self, x: Any, like: torch.dtype) -> str:
        """The name of a tensor or of a Python number, in dtype `like`."""
        if isinstance(x, Value):
            return self.name(x) if x.dtype == like else self.graph.add("Cast", [self.name(x)], to=ONNX_DTYPES[like])
        return self.graph.small(torch.tensor(x, dtype=like))
