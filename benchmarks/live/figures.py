"""Figures of the reports on live mode: latencies, memory, and the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from vexpress_rt.utils.cpu_model import cpu_model


def percentiles(latencies: list[float]) -> dict[str, float]:
    """Return median, 95th percentile and maximum of latencies in seconds; NaN if there are none."""
    values = np.array(latencies) if latencies else np.array([np.nan])
    return {"p50": float(np.percentile(values, 50)), "p95": float(np.percentile(values, 95)), "max": values.max()}


def growth(samples: list[tuple[float, float]]) -> dict[str, float]:
    """Return resident memory after a fifth of the time and at the end, and its slope in between, in MiB.

    Args:
        samples: (seconds on the clock, MiB), in order.
    """
    later = np.array(samples[len(samples) // 5 :])
    slope = np.polyfit(later[:, 0] / 60, later[:, 1], 1)[0]
    tenth = max(1, len(later) // 10)
    first, last = float(np.median(later[:tenth, 1])), float(np.median(later[-tenth:, 1]))
    return {"after_a_fifth": first, "in_the_end": last, "growth_a_minute": float(slope)}


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def machine() -> dict[str, Any]:
    """Return what is known about this machine."""
    load = os.getloadavg()[0]
    return {"cores": os.cpu_count(), "cpu": cpu_model().describe(), "load": load, "platform": platform.platform()}
