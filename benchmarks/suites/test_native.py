"""The native kernels, compared with their reference implementations in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.cpu.effort import Effort
from vexpress_rt import native


@pytest.mark.parametrize("size", [128, 512])
def test_median(measure_pair: Callable[..., None], effort: Effort, size: int, request: pytest.FixtureRequest) -> None:
    """The 3x3x3 median of one frame of `size` x `size` pixels."""
    frames = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    threads = request.config.getoption("--threads")
    measure_pair(
        lambda: native.median_3x3x3(*frames, threads=threads),
        lambda: native.median_3x3x3_numpy(*frames),
        rounds=effort.rounds,
        what=f"median_3x3x3, {size} x {size}",
        backend=native.backend,
    )
