"""The interface of all backends: engines, and the tensors that they take and return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias, overload, runtime_checkable

from numpy.typing import NDArray

from vexpress_rt.bundle.engine_spec import EngineSpec

Array: TypeAlias = NDArray[Any]


@runtime_checkable
class DeviceTensor(Protocol):
    """A read-only tensor in the memory of the device that computed it.

    Other engines on that device take it as an input without a copy to the host.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dims."""
        ...

    @property
    def dtype(self) -> str:
        """NumPy's name of the dtype, or `bfloat16`."""
        ...

    def numpy(self) -> Array:
        """Wait until the tensor is computed, and return a copy of it as an array.

        Raises:
            BackendError: Computing or copying failed, or the dtype is bfloat16, which NumPy lacks.
        """
        ...

    def close(self) -> None:
        """Free the tensor once its last reader is done, as deleting the object does. Closing twice is allowed."""
        ...


Tensor: TypeAlias = Array | DeviceTensor


class SharedExecutor(Protocol):
    """What the engines of a bundle share on their device, such as streams and memory; its provider makes it."""

    def close(self) -> None:
        """Free it, after its engines. Closing twice is allowed."""
        ...


class Engine(Protocol):
    """A loaded engine."""

    @property
    def spec(self) -> EngineSpec:
        """The inputs and outputs of the engine."""
        ...

    @overload
    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: Literal[False] = False) -> dict[str, Array]: ...

    @overload
    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool) -> Mapping[str, Tensor]: ...

    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool = False) -> Mapping[str, Tensor]:
        """Run the engine.

        Args:
            inputs: The inputs by name, with the shapes and dtypes of `spec`.
            keep_on_device: Leave the outputs on the device and do not wait for them. On a GPU they are DeviceTensors,
                which engines on the same GPU take as inputs without a copy to the host; on the CPU they are arrays.

        Returns:
            The outputs by name.

        Raises:
            BackendError: An input is missing, unknown, or of another shape or dtype (the message lists all of them);
                the engine or an input was closed; memory ran out; or the library failed.
        """
        ...

    def run_positional(self, array: Array) -> list[Array]:
        """Run an engine that has one input.

        Args:
            array: The input.

        Returns:
            All outputs, in the order of `spec`.

        Raises:
            BackendError: The engine has several inputs, or the run fails: see `run`.
        """
        ...

    def close(self) -> None:
        """Free the engine; DeviceTensors that it returned stay valid. Closing twice is allowed."""
        ...
