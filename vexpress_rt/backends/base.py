"""Libraries that run engines, one module each; nothing else imports them. All give an `Engine`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias, overload, runtime_checkable

from numpy.typing import NDArray

from vexpress_rt.bundle.engine_spec import EngineSpec

Array: TypeAlias = NDArray[Any]


@runtime_checkable
class DeviceTensor(Protocol):
    """A tensor that stays where an engine computed it; its values never change. Other engines of that place take it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        ...

    @property
    def dtype(self) -> str:
        """NumPy's name of its dtype, or `bfloat16`."""
        ...

    def numpy(self) -> Array:
        """A copy as an array, once it is computed. Raises BackendError; bfloat16 cannot become an array."""
        ...

    def close(self) -> None:
        """Free it, once nobody reads it any more. Dropping it does the same; closing twice is allowed."""
        ...


Tensor: TypeAlias = Array | DeviceTensor


class Engine(Protocol):
    """A loaded engine."""

    @property
    def spec(self) -> EngineSpec:
        """What it takes and gives."""
        ...

    @overload
    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: Literal[False] = False) -> dict[str, Array]: ...

    @overload
    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool) -> Mapping[str, Tensor]: ...

    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool = False) -> Mapping[str, Tensor]:
        """Outputs by name, for inputs by name with the shapes and dtypes of `spec`.

        keep_on_device: leave the outputs where they are computed, and do not wait for them. On the CPU they are arrays
        as well; on a GPU they are DeviceTensors, which engines on the same GPU take as inputs without a host copy.

        Raises BackendError.
        """
        ...

    def run_positional(self, array: Array) -> list[Array]:
        """All outputs in order, for an engine with one input. Raises BackendError."""
        ...

    def close(self) -> None:
        """Free the engine, but not the DeviceTensors that it returned. Closing twice is allowed."""
        ...
