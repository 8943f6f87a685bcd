"""Libraries that run engines, one module each; nothing else imports them. All give an `Engine`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from vexpress_rt.specs import EngineSpec

Tensor = NDArray[Any]


class Engine(Protocol):
    """A loaded engine."""

    @property
    def spec(self) -> EngineSpec:
        """What it takes and gives."""
        ...

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, for inputs by name with the shapes and dtypes of `spec`. Raises BackendError."""
        ...

    def run_positional(self, array: Tensor) -> list[Tensor]:
        """All outputs in order, for an engine with one input. Raises BackendError."""
        ...

    def close(self) -> None:
        """Free what it holds. It cannot run afterwards; closing twice is allowed."""
        ...
