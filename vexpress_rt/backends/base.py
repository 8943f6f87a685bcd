"""The interface of all backends: engines, and the tensors that they take and return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias, overload, runtime_checkable

from numpy.typing import NDArray

from vexpress_rt.bundle.engine_spec import EngineSpec

Array: TypeAlias = NDArray[Any]


@runtime_checkable
class DeviceTensor(Protocol):
    """A tensor in the memory of the device that computed it, which other engines on that device take as an input.

    Its values never change.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        ...

    @property
    def dtype(self) -> str:
        """NumPy's name of its dtype, or `bfloat16`."""
        ...

    def numpy(self) -> Array:
        """Return a copy as an array, after a wait until the tensor is computed.

        Raises:
            BackendError: Computing or copying failed, or the dtype is bfloat16, which NumPy lacks.
        """
        ...

    def close(self) -> None:
        """Free the tensor once its last reader is done. Dropping it does the same; closing twice is allowed."""
        ...


Tensor: TypeAlias = Array | DeviceTensor


class Engine(Protocol):
    """A loaded engine."""

    @property
    def spec(self) -> EngineSpec:
        """The inputs and outputs."""
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
            BackendError: An input is missing, unknown, or of another shape or dtype (the message names every one); the
                engine or an input was closed; memory ran out; or the library failed.
        """
        ...

    def run_positional(self, array: Array) -> list[Array]:
        """Run an engine that has one input.

        Args:
            array: The input.

        Returns:
            All outputs, in the order of `spec`.

        Raises:
            BackendError: The engine has several inputs; else as `run` does.
        """
        ...

    def close(self) -> None:
        """Free the engine; DeviceTensors that it returned stay valid. Closing twice is allowed."""
        ...
