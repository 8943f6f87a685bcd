"""Times: warm-up, repetition, median and spread.

Work on a GPU goes on after the call that asked for it has returned. What is measured here must therefore wait for its
own end, and time is the host's clock from the call to there: what whoever asked has to wait.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def measure(
    call: Callable[[], object], *, warmup: int = 3, seconds: float = 2.0, least: int = 5, most: int = 200
) -> list[float]:
    """Seconds of each repetition of `call`, which returns when its work is done.

    warmup: calls before, not counted: libraries compile, choose kernels and capture graphs in the first ones.
    seconds: go on so long, but for at least `least` and at most `most` repetitions.
    """
    for _ in range(warmup):
        call()
    samples: list[float] = []
    while len(samples) < least or (sum(samples) < seconds and len(samples) < most):
        started = time.perf_counter()
        call()
        samples.append(time.perf_counter() - started)
    return samples


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Of times in seconds: median, quartiles, extremes, number.

    spread: half the distance between the quartiles, as a share of the median: differences below it are noise.
    """
    low, median, high = (float(x) for x in np.percentile(samples, (25, 50, 75)))
    spread = (high - low) / 2 / median if median else math.nan
    return {
        "median": median,
        "low_quartile": low,
        "high_quartile": high,
        "least": min(samples),
        "most": max(samples),
        "spread": spread,
        "count": len(samples),
    }
