"""How busy this machine's CPUs are: other work makes measurements unreliable."""

from __future__ import annotations

import time
from pathlib import Path

from vexpress_rt.utils.control_groups import read_text


def busy_cpus(seconds: float = 0.5, root: Path = Path("/")) -> float | None:
    """Return how many CPUs worked during an interval in which this process sleeps.

    Args:
        seconds: The interval.
        root: The folder that contains /proc.

    Returns:
        A mean over the interval, for all processes of the machine, and for other virtual machines that took its CPUs
        ("steal"); None on systems without /proc/stat.

    Source: proc_stat(5).
    """
    before = _times(root)
    time.sleep(seconds)
    after = _times(root)
    if before is None or after is None:
        return None
    count, total, idle = after[0], after[1] - before[1], after[2] - before[2]
    return count * (1 - idle / total) if total > 0 else None


def _times(root: Path) -> tuple[int, int, int] | None:
    """Return the number of CPUs, and the clock ticks of all of them since the start: in total and idle."""
    lines = [line.split() for line in read_text(root / "proc/stat").splitlines() if line.startswith("cpu")]
    total = next((fields[1:9] for fields in lines if fields[0] == "cpu"), [])  # later fields are part of the first two
    if len(total) < 5 or not all(field.isdecimal() for field in total):
        return None
    ticks = [int(field) for field in total]
    return max(1, len(lines) - 1), sum(ticks), ticks[3] + ticks[4]  # idle and waiting for disks
