"""One step of one window, the unit of which denoising consists."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from benchmarks.cpu.effort import Effort
from benchmarks.cpu.runtimes import CPU, PYTORCH
from benchmarks.gpu.compare import PSNR_LEAST

if TYPE_CHECKING:
    from benchmarks.cpu.sides import Sides


@pytest.mark.parametrize("model_name", ["pocket", "half", "full"], scope="session")
def test_window_step(measure_sides: Callable[..., None], sides: Sides, effort: Effort, model_name: str) -> None:
    """Both passes of guidance and the sampler's step; PyTorch projects the photo's keys and values in each call."""
    from benchmarks.cpu.sides import signal_to_noise

    calls = sides.window_step_calls()
    latents = {name: call() for name, call in calls.items()}
    ratios = {name: signal_to_noise(found, latents[PYTORCH]) for name, found in latents.items() if name != PYTORCH}
    shape = sides.shape
    measure_sides(
        calls,
        rounds=effort.rounds if model_name == "pocket" else effort.big_rounds,
        details=lambda: {
            name: {"precision": sides.precision(name), "signal_to_noise": ratio} for name, ratio in ratios.items()
        },
        model=model_name,
        what=f"{shape.height} x {shape.width}, {shape.frames} frames",
        channels=list(sides.manifest.model.block_out_channels),
        missing=sides.missing,
    )
    assert ratios[CPU] >= PSNR_LEAST
