"""The CPUs and cores that this process may use, for engines, the median filter, and encoders and decoders of videos."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vexpress_rt.config import check_threads
from vexpress_rt.utils.control_groups import own_groups, read_text

_QUOTA_FILES = {  # by the type of the file system that a control group is mounted as
    "cgroup2": ("cpu.max",),
    "cgroup": ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
}


@dataclass(frozen=True)
class ThreadLimit:
    """A number of threads, limited to the CPUs that the process may use.

    Attributes:
        threads: Threads to use, at least 1.
        requested: The number that the caller requested; None for the value of `usable_cores()`.
        usable: The value of `usable_cpus()`.
    """

    threads: int
    requested: int | None
    usable: int

    @property
    def lowered(self) -> bool:
        """Whether fewer threads are used than were requested."""
        return self.requested is not None and self.threads < self.requested

    def describe(self) -> str:
        """Return the number of threads as text, with the reason if it was lowered."""
        if self.lowered:
            usable = describe_cpus(self.usable)
            return f"{self.requested} threads requested, {self.threads} used: this process may use {usable}"
        return f"{self.threads} thread{'s' if self.threads != 1 else ''}"


def limit_threads(threads: int | None) -> ThreadLimit:
    """Choose a number of threads: the requested one, limited to `usable_cpus()`, or by default `usable_cores()`.

    More threads than CPUs wait for each other: on 2 CPUs, 16 threads take 10 to 30 times as long as 2. Two threads of
    one core share its arithmetic units, so that the default is one thread per core.

    Args:
        threads: The requested number, 1 to 1024; None requests one thread per usable core.

    Returns:
        The number to use, the requested number and the number of usable CPUs.

    Raises:
        ConfigError: `threads` is not a whole number in that range.
    """
    checked, usable = check_threads(threads), usable_cpus()
    return ThreadLimit(usable_cores() if checked is None else min(checked, usable), checked, usable)


def usable_cpus() -> int:
    """Return the number of logical CPUs that this process may use, at least 1.

    It is the smallest of three numbers: the machine's CPUs, the process's affinity (`taskset`, cpusets), and the CPU
    quota of its control group, rounded up. The quota is read once per process.
    """
    return _within_quota(available_cpus())


def usable_cores() -> int:
    """Return the number of physical cores that this process may use, at least 1 and at most `usable_cpus()`.

    The cores are those of the process's affinity: a core counts once, whether one or all of its logical CPUs (SMT,
    hyper-threading) are in the affinity. The CPU quota limits them like logical CPUs.
    """
    return _within_quota(available_cores())


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of physical cores in the process's affinity, without the quota.

    Logical CPUs whose core the system does not name count as one core each.

    Args:
        root: The folder that contains /sys.

    Source: Documentation/admin-guide/cputopology.rst of Linux.
    """
    try:
        affinity = frozenset(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS and Windows have no affinity
        return available_cpus()
    return max(1, len(_cores(root, affinity)))


@functools.lru_cache(maxsize=8)
def _cores(root: Path, affinity: frozenset[int]) -> frozenset[Hashable]:
    """Return a name for each core that the logical CPUs belong to."""
    return frozenset(_core(root / f"sys/devices/system/cpu/cpu{cpu}/topology", cpu) for cpu in affinity)


def _core(topology: Path, cpu: int) -> Hashable:
    """Return a name for a CPU's core: the CPUs of that core, else package, die and core, else the CPU itself."""
    for name in ("core_cpus_list", "thread_siblings_list"):  # the second is the older name
        siblings = read_text(topology / name).strip()
        if re.fullmatch(r"\d+([,-]\d+)*", siblings):
            return siblings
    package, die, core = (read_text(topology / f"{name}_id").strip() for name in ("physical_package", "die", "core"))
    return (package, die, core) if core.isdecimal() else cpu


def _within_quota(count: int) -> int:
    quota = _own_quota()
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def available_cpus() -> int:
    """Return the number of logical CPUs in the process's affinity, without the quota."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except (AttributeError, OSError):  # macOS and Windows have no affinity
        return os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPU quota of this process's control groups, version 1 or 2.

    The quota of every enclosing group applies, so the smallest counts. Files that are unreadable or malformed set no
    limit.

    Args:
        root: The folder that contains /proc and /sys.

    Returns:
        The quota in CPUs; None without a limit.

    Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.
    """
    quotas = [quota for folder, kind in _group_folders(root) if (quota := _quota(folder, kind)) is not None]
    return min(quotas, default=None)


@functools.cache
def _own_quota() -> float | None:
    return cpu_quota()


def _group_folders(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders of the process's groups and their file system type, from each group up to its mount."""
    groups = own_groups(root, "cpu")
    for line in read_text(root / "proc/self/mountinfo").splitlines():
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


def _relative(group: str, mounted: str) -> PurePosixPath:
    """Return the folder of `group`, relative to a mount that shows the groups below `mounted`.

    A group outside the mount (in another namespace) is invisible; the mount's own folder stands in for it.
    """
    try:
        path = PurePosixPath(group).relative_to(mounted)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in path.parts else path


def _quota(folder: Path, kind: str) -> float | None:
    """Return the quota of one group in CPUs; None without a limit."""
    values = " ".join(read_text(folder / name) for name in _QUOTA_FILES[kind]).split()
    if len(values) != 2 or not all(re.fullmatch(r"\d{1,18}", value) for value in values):  # "max", "-1", no such file
        return None
    quota, period = map(int, values)
    return quota / period if quota and period else None


def _unescaped(path: str) -> str:
    """Decode the octal escapes of mountinfo: a space is written as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def describe_cpus(count: int) -> str:
    """Return a number of CPUs as text, such as "1 CPU"."""
    return f"{count} CPU{'s' if count != 1 else ''}"
