"""The memory that is free for this process, and a check that a planned amount fits into it.

Nothing is allocated for the check. Where the free memory is unknown, as on systems without /proc, every amount fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vexpress_rt.errors import ConfigError, VExpressError
from vexpress_rt.utils.control_groups import own_groups, read_text

_UNLIMITED = 1 << 60  # bytes; version 1 of control groups writes a number near 2**63 for "no limit"


class Need(NamedTuple):
    """An amount of memory that a planned operation needs.

    Attributes:
        size: Bytes.
        purpose: The contents of that memory, for messages: "the frames".
        remedy: An instruction that lowers the amount, for messages.
    """

    size: int
    purpose: str
    remedy: str


def check_memory(
    subject: str, needs: Iterable[Need], free: int | None, error: type[VExpressError] = ConfigError
) -> None:
    """Check that all needs together fit into the free memory.

    The default error is ConfigError and not InputError, because with other options the same recording becomes a video
    on the same machine.

    Args:
        subject: The operation that has the needs, for the message.
        needs: Amounts of memory that are in use at the same time.
        free: Free memory in bytes; None if unknown: every amount fits.
        error: The exception to raise.

    Raises:
        error: The needs exceed `free`. The message lists them with the remedy of the largest.
    """
    wanted = sorted((need for need in needs if need.size > 0), reverse=True)
    total = sum(need.size for need in wanted)
    if free is None or total <= free:
        return
    parts = ", ".join(f"{_gigabytes(need.size)} for {need.purpose}" for need in wanted if need.size > total / 20)
    raise error(
        f"{subject} needs {_gigabytes(total)} of memory ({parts}), and {_gigabytes(free)} are free: {wanted[0].remedy}"
    )


def free_memory(root: Path = Path("/"), limit: Callable[[str], int | None] | None = None) -> int | None:
    """Return the bytes that this process can still allocate without swapping; None where that is unknown.

    It is the smallest of three amounts: the system's available memory (`MemAvailable`), the rest of the limits of the
    process's control groups and those above them (versions 1 and 2, file cache counted as free), and the rest of
    RLIMIT_AS and RLIMIT_DATA.

    Args:
        root: The folder that contains /proc and /sys.
        limit: Maps "RLIMIT_AS" and "RLIMIT_DATA" to bytes, or None without a limit; None for the system's limits.
    """
    found = [bound.left for bound in _bounds(root, limit)]
    return max(0, min(found)) if found else None


def whole_memory(root: Path = Path("/"), limit: Callable[[str], int | None] | None = None) -> int | None:
    """Return the bytes that this process could allocate on an idle machine; None if unknown. See `free_memory`."""
    return min((bound.most for bound in _bounds(root, limit)), default=None)


class _Bound(NamedTuple):
    """A limit of the system, a control group or the process: its bytes (`most`), and those not used (`left`)."""

    most: int
    left: int


def _bounds(root: Path, limit: Callable[[str], int | None] | None) -> Iterator[_Bound]:
    yield from _system(root)
    yield from _groups(root)
    yield from _limits(root, limit or _resource_limit)


def _system(root: Path) -> Iterator[_Bound]:
    facts = _fields(root / "proc" / "meminfo")
    if (available := facts.get("MemAvailable:")) is not None:
        yield _Bound(facts.get("MemTotal:", available) * 1024, available * 1024)


def _limits(root: Path, limit: Callable[[str], int | None]) -> Iterator[_Bound]:
    used = _fields(root / "proc" / "self" / "status")
    for name, field in (("RLIMIT_AS", "VmSize:"), ("RLIMIT_DATA", "VmData:")):
        if (most := limit(name)) is not None and field in used:
            yield _Bound(most, most - used[field] * 1024)


def _resource_limit(name: str) -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft = resource.getrlimit(getattr(resource, name))[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _groups(root: Path) -> Iterator[_Bound]:
    """Yield the bounds of each control group of this process, from its own up to the highest visible one."""
    for kind, path in own_groups(root, "memory").items():
        # In a container, a group's path can lead above the mount ("/../.."); then its files are at the mount's top.
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        if kind == "cgroup2":
            yield from _walk(root / "sys" / "fs" / "cgroup", parts, "memory.max", "memory.current", "")
        else:
            mount = root / "sys" / "fs" / "cgroup" / "memory"
            yield from _walk(mount, parts, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _walk(mount: Path, parts: list[str], limit: str, usage: str, prefix: str) -> Iterator[_Bound]:
    for depth in range(len(parts), -1, -1):
        group = mount.joinpath(*parts[:depth])
        most, used = _number(group / limit), _number(group / usage)
        if most is not None and used is not None and most < _UNLIMITED:
            pages = _fields(group / "memory.stat")
            cache = sum(pages.get(f"{prefix}{kind}_file", 0) for kind in ("inactive", "active"))
            yield _Bound(most, most - used + cache)


def _number(path: Path) -> int | None:
    text = read_text(path).strip()
    return int(text) if text.isdecimal() else None  # "max": no limit


def _fields(path: Path) -> dict[str, int]:
    """Parse lines of a name, a number and perhaps a unit."""
    found = {}
    for line in read_text(path).splitlines():
        name, *values = line.split()[:2] or [""]
        if values and values[0].isdecimal():
            found[name] = int(values[0])
    return found


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"
