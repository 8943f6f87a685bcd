"""How many CPUs this process may use: the one place that knows, for engines, the median filter and the encoder."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vexpress_rt.config import check_threads

_QUOTA_FILES = {  # by the type of the file system that a control group is mounted as
    "cgroup2": ("cpu.max",),
    "cgroup": ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
}


@dataclass(frozen=True)
class ThreadLimit:
    """threads: to use, at least 1.  requested: what was asked for, None for one a CPU.  usable: see `usable_cpus`."""

    threads: int
    requested: int | None
    usable: int

    @property
    def lowered(self) -> bool:
        """Whether fewer are used than were asked for."""
        return self.requested is not None and self.threads < self.requested

    def describe(self) -> str:
        """The number, and why it is not the one that was asked for."""
        if self.lowered:
            return f"{self.requested} threads requested, {self.threads} used: this process may use {cpus(self.usable)}"
        return f"{self.threads} thread{'s' if self.threads != 1 else ''}"


def limit_threads(threads: int | None) -> ThreadLimit:
    """The threads to compute with: `threads`, but never more than `usable_cpus()`; None takes as many as that.

    More threads than CPUs wait for each other: 16 on 2 CPUs take 10 to 30 times as long as 2.
    Raises ConfigError for an impossible number.
    """
    checked, usable = check_threads(threads), usable_cpus()
    return ThreadLimit(usable if checked is None else min(checked, usable), checked, usable)


def usable_cpus() -> int:
    """CPUs that this process may use, at least 1: the machine's, the process's affinity (`taskset`, cpusets), and the
    CPU quota of its control group, rounded up. The quota is read once a process.
    """
    available, quota = available_cpus(), _own_quota()
    return available if quota is None else max(1, min(available, math.ceil(quota)))


def available_cpus() -> int:
    """CPUs that the system schedules this process on, whatever its quota: what libraries count by themselves."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except (AttributeError, OSError):  # macOS and Windows have no affinity to ask for
        return os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time that the control groups of this process allow, version 1 or 2; None without a limit.

    A group is limited by all those that it lies in: the least counts. root: where /proc and /sys are.
    What cannot be read or understood limits nothing. Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.
    """
    quotas = [quota for folder, kind in _group_folders(root) if (quota := _quota(folder, kind)) is not None]
    return min(quotas, default=None)


@functools.cache
def _own_quota() -> float | None:
    return cpu_quota()


def _group_folders(root: Path) -> Iterator[tuple[Path, str]]:
    """The folders of the process's groups with the type of their file system, from each group up to its mount."""
    groups = _groups(_text(root / "proc/self/cgroup"))
    for line in _text(root / "proc/self/mountinfo").splitlines():
        fields, _, rest = (part.split() for part in line.partition(" - "))
        if len(fields) < 5 or len(rest) < 3 or rest[0] not in _QUOTA_FILES:
            continue
        kind = rest[0]
        if kind not in groups or (kind == "cgroup" and "cpu" not in rest[2].split(",")):
            continue
        mount = root / _unescaped(fields[4]).lstrip("/")
        inside = _relative(groups[kind], _unescaped(fields[3]))
        for part in (inside, *inside.parents):
            yield mount / part, kind


def _groups(text: str) -> dict[str, str]:
    """The process's group of each version, by the type of its file system, from /proc/self/cgroup."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            groups["cgroup"] = path
    return groups


def _relative(group: str, mounted: str) -> PurePosixPath:
    """The folder of a group below a mount that shows the groups from `mounted` on.

    A group outside of it (of another namespace) cannot be seen: the mount's own folder is the nearest there is.
    """
    try:
        path = PurePosixPath(group).relative_to(mounted)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in path.parts else path


def _quota(folder: Path, kind: str) -> float | None:
    """CPUs that one group allows; None without a limit."""
    values = " ".join(_text(folder / name) for name in _QUOTA_FILES[kind]).split()
    if len(values) != 2 or not all(re.fullmatch(r"\d{1,18}", value) for value in values):  # "max", "-1", no such file
        return None
    quota, period = map(int, values)
    return quota / period if quota and period else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _unescaped(path: str) -> str:
    """A path of mountinfo, where a space is written as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def cpus(count: int) -> str:
    """A number of CPUs for people."""
    return f"{count} CPU{'s' if count != 1 else ''}"
