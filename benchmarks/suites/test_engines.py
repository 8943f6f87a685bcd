"""Every engine of the small model, compared with the PyTorch module in its place in the plain pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from benchmarks.cpu.effort import Effort
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES

if TYPE_CHECKING:
    from benchmarks.cpu.sides import Sides


@pytest.mark.parametrize("model_name", ["pocket"], scope="session")  # engines of other models differ only in size
@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_engine(measure_pair: Callable[..., None], sides: Sides, effort: Effort, model_name: str, name: str) -> None:
    """One call; the audio encoder gets five seconds of sound."""
    measure_pair(*sides.engine_calls(name), rounds=effort.rounds, before=2, warmup=2, model=model_name, what=name)
