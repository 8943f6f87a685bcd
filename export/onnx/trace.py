"""Record what a torch module computes as a flat list of calls to torch functions.

The module runs once on the meta device, which propagates shapes and dtypes without computing values, so that a graph of
a billion parameters takes a second. (`torch.export` returns the same list and takes 16 s for a U-Net on two cores.)
Calls whose arguments are all weights or constants do not become part of the engine: `Trace.constant` evaluates them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from export.errors import ExportError

RESHAPES = ("reshape", "view", "expand")  # calls whose arguments are sizes; their lowerings use the output's sizes


@dataclass(eq=False)
class Value:
    """A tensor of the trace, of which exactly one of `weight`, `call` and `input` is the origin.

    Attributes:
        shape: Sizes; None for one that is dynamic.
        dtype: Dtype of the values.
        weight: Name in the module's state dict.
        call: The call that returns it.
        input: Name of the input.
        constant: Whether it depends on no input.
    """

    shape: tuple[int | None, ...]
    dtype: torch.dtype
    weight: str | None = None
    call: Call | None = None
    input: str | None = None
    constant: bool = False


@dataclass(eq=False)
class Call:
    """A call of a torch function.

    Attributes:
        name: Name of the function.
        function: The function.
        args: Positional arguments; tensors are `Value`s.
        kwargs: Keyword arguments; tensors are `Value`s.
        outputs: The returned tensors.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Value] = field(default_factory=list)


@dataclass
class Trace:
    """The recorded calls of a module.

    Attributes:
        inputs: Inputs of the module, in order.
        outputs: Outputs of the module, in order.
        calls: All calls between inputs and outputs, in order.
        weights: Parameters and buffers of the module by name.
    """

    inputs: list[Value]
    outputs: list[Value]
    calls: list[Call]
    weights: Mapping[str, Tensor]

    def constant(self, value: Value) -> Tensor:
        """Compute a value that depends on no input.

        Args:
            value: One whose `constant` is True.
        """
        assert value.constant
        if value.weight is not None:
            return self.weights[value.weight]
        assert value.call is not None
        call = value.call
        args, kwargs = pytree.tree_map_only(Value, self.constant, (call.args, call.kwargs))
        result = call.function(*args, **kwargs)
        return result if isinstance(result, Tensor) else result[call.outputs.index(value)]


class _Recorder(TorchFunctionMode):
    def __init__(self, values: dict[int, Value], composites: Collection[str]):
        super().__init__()
        self.values, self.composites = values, composites
        self.alive: list[Tensor] = []  # keeps ids unique while recording
        self.calls: list[Call] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        kwargs = kwargs or {}
        if hasattr(func, "composite") and func.__name__ not in self.composites:
            with self:
                return func.__wrapped__(*args)  # type: ignore[attr-defined]
        given = [(leaf, leaf._version) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor, _ in given:
            self._value(tensor)
        result = func(*args, **kwargs)
        if any(tensor._version != before for tensor, before in given):
            raise ExportError(f"torch function {func.__name__!r} writes into its input: use the one that gives a copy")
        tensors = [result] if isinstance(result, Tensor) else list(result) if isinstance(result, (tuple, list)) else []
        if not any(isinstance(t, Tensor) and id(t) not in self.values for t in tensors):
            return result
        call = Call(func.__name__, func, *pytree.tree_map_only(Tensor, self._value, (args, kwargs)))
        constant = all(v.constant for v in arguments(call))
        for tensor in tensors:
            call.outputs.append(Value(tuple(tensor.shape), tensor.dtype, call=call, constant=constant))
            self.values[id(tensor)] = call.outputs[-1]
            self.alive.append(tensor)
        self.calls.append(call)
        return result

    def _value(self, tensor: Tensor) -> Value:
        if id(tensor) not in self.values:
            raise ExportError(
                f"the module uses a tensor of shape {tuple(tensor.shape)} that is neither an input nor a parameter nor "
                "a buffer: register it as a buffer"
            )
        return self.values[id(tensor)]


def arguments(call: Call) -> list[Value]:
    """Return all tensors in the arguments of a call."""
    return [leaf for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Value)]


def trace(
    module: nn.Module, inputs: Sequence[tuple[str, tuple[int, ...], torch.dtype]], *, composites: Collection[str] = ()
) -> Trace:
    """Trace a module.

    Args:
        module: The module.
        inputs: Name, shape and dtype of each positional input.
        composites: Names of composite functions (see `export.networks.layers.composite`) to record as one call. For
            other composite functions the calls that they make are recorded.

    Raises:
        ExportError: The module writes into a tensor, or uses one that is neither input, parameter nor buffer.
    """
    weights = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    placeholders = {name: torch.empty_like(tensor, device="meta") for name, tensor in weights.items()}
    values = {
        id(tensor): Value(tuple(tensor.shape), tensor.dtype, weight=name, constant=True)
        for name, tensor in placeholders.items()
    }
    given = tuple(torch.empty(shape, dtype=dtype, device="meta") for _, shape, dtype in inputs)
    named = [Value(shape, dtype, input=name) for name, shape, dtype in inputs]
    values.update({id(tensor): value for tensor, value in zip(given, named, strict=True)})
    recorder = _Recorder(values, composites)
    with torch.no_grad(), torch.device("meta"), recorder:
        result = torch.func.functional_call(module, placeholders, given, tie_weights=False)
    results = [result] if isinstance(result, Tensor) else list(result)
    outputs = [values[id(tensor)] for tensor in results]
    return Trace(named, outputs, _needed(recorder.calls, outputs), weights)


def generalise(first: Trace, second: Trace) -> Trace:
    """Make sizes dynamic that differ between two traces of a module.

    Args:
        first: The trace at one value of the dynamic size. It is changed.
        second: The trace at another value.

    Returns:
        `first`, with None for every size that differs in `second`.

    Raises:
        ExportError: The calls, or their arguments other than tensors, depend on the size.
    """

    def values(trace: Trace) -> list[Value]:
        return [*trace.inputs, *(v for call in trace.calls for v in call.outputs)]

    if [call.name for call in first.calls] != [call.name for call in second.calls]:
        raise ExportError("the module calls other functions for another size of its input: make it call the same ones")
    for one, other in zip(first.calls, second.calls, strict=True):
        if one.name not in RESHAPES and _settings(one) != _settings(other):
            raise ExportError(
                f"torch function {one.name!r} is called with {_settings(one)}, and with {_settings(other)} for another "
                "size of the dynamic input: write it so that the size does not enter"
            )
    for one_value, other_value in zip(values(first), values(second), strict=True):
        pairs = zip(one_value.shape, other_value.shape, strict=True)
        one_value.shape = tuple(x if x == y else None for x, y in pairs)
    return first


def _settings(call: Call) -> list[Any]:
    """Return the arguments of a call other than tensors; slices as their three parts."""
    leaves = [leaf for leaf in pytree.tree_leaves((call.args, call.kwargs)) if not isinstance(leaf, Value)]
    return [(leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else leaf for leaf in leaves]


def _needed(calls: list[Call], outputs: list[Value]) -> list[Call]:
    """Return the calls that an output depends on and that depend on an input."""
    wanted = {id(value) for value in outputs}
    kept: list[Call] = []
    for call in reversed(calls):
        if any(id(v) in wanted for v in call.outputs) and not call.outputs[0].constant:
            kept.append(call)
            wanted.update(id(v) for v in arguments(call))
    return kept[::-1]
