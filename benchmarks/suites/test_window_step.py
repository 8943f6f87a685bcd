"""One step of one window, the unit of which denoising consists."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from benchmarks.cpu.effort import Effort

if TYPE_CHECKING:
    from benchmarks.cpu.sides import Sides


@pytest.mark.parametrize("model_name", ["pocket", "half", "full"], scope="session")
def test_window_step(measure_pair: Callable[..., None], sides: Sides, effort: Effort, model_name: str) -> None:
    """Both passes of guidance and the sampler's step; PyTorch projects the photo's keys and values in each call."""
    rounds = effort.rounds if model_name == "pocket" else effort.big_rounds
    shape = sides.shape
    size = f"{shape.height} x {shape.width}, {shape.frames} frames"
    channels = list(sides.manifest.model.block_out_channels)
    measure_pair(*sides.window_step_calls(), rounds=rounds, warmup=2, model=model_name, what=size, channels=channels)
