"""Measure times: warm-up, repetition, median and spread.

A call that enqueues work on a GPU returns before the work ends. A measured call must therefore synchronize itself; its
time is the host's, from the call to the end of the work.
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
    """Return the seconds of each repetition of a call.

    Args:
        call: The call, which returns when its work has ended.
        warmup: Uncounted calls before, in which libraries compile, choose kernels and capture graphs.
        seconds: Duration of the measurement.
        least: Least number of repetitions.
        most: Largest number of repetitions.
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
    """Return median, quartiles, extremes, number and spread of times in seconds.

    `spread` is half the interquartile range as a share of the median; differences below it are noise.
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
