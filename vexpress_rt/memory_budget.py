"""How much memory this process can still have, and whether that is enough for what is about to be made.

Nothing is allocated to find out. What cannot be told, on systems without /proc for instance, counts as enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vexpress_rt.errors import ConfigError, VExpressError

_UNLIMITED = 1 << 60  # bytes; version 1 of control groups writes a number near 2**63 for "no limit"


class Need(NamedTuple):
    """size: bytes.  what: they are for, in words.  remedy: what needs fewer of them, in words."""

    size: int
    what: str
    remedy: str


def check_memory(
    subject: str, needs: Iterable[Need], free: int | None, error: type[VExpressError] = ConfigError
) -> None:
    """Raise `error`, naming the largest need and its remedy, if all needs together are more than `free` bytes.

    subject: what has the needs, for the message.  free: None for unknown, which is enough.

    A video that does not fit is an error of the options, ConfigError, not of the input: with others the same recording
    becomes a video on the same machine.
    """
    wanted = sorted((need for need in needs if need.size > 0), reverse=True)
    total = sum(need.size for need in wanted)
    if free is None or total <= free:
        return
    parts = ", ".join(f"{_gigabytes(need.size)} for {need.what}" for need in wanted if need.size > total / 20)
    raise error(
        f"{subject} needs {_gigabytes(total)} of memory ({parts}), and {_gigabytes(free)} are free: {wanted[0].remedy}"
    )


def free_memory(root: Path = Path("/"), limit: Callable[[str], int | None] | None = None) -> int | None:
    """Bytes that this process can still have, swap not counted; None where that cannot be told.

    It is the least of what the system has (`MemAvailable`), what the process's control groups and those above them
    leave (versions 1 and 2, file cache counted as free), and what RLIMIT_AS and RLIMIT_DATA leave.

    root: where /proc and /sys are.  limit: RLIMIT_AS or RLIMIT_DATA by name -> bytes or None; None asks the system.
    """
    found = [bound.left for bound in _bounds(root, limit)]
    return max(0, min(found)) if found else None


def whole_memory(root: Path = Path("/"), limit: Callable[[str], int | None] | None = None) -> int | None:
    """Bytes that this process could have if nobody used any, as `free_memory` counts them; None for unknown."""
    return min((bound.most for bound in _bounds(root, limit)), default=None)


class _Bound(NamedTuple):
    """Of the system, a control group or the process.  most: bytes in all.  left: that are not used."""

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
    """What each control group of this process leaves, from its own up to the highest that can be seen."""
    for line in _text(root / "proc" / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # Seen from a container, a group can lie above what is mounted ("/../.."), and its own files at the top.
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        if number == "0" and not controllers:
            yield from _walk(root / "sys" / "fs" / "cgroup", parts, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
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
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None  # "max": no limit


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number, with or without a unit behind."""
    found = {}
    for line in _text(path).splitlines():
        name, *values = line.split()[:2] or [""]
        if values and values[0].isdecimal():
            found[name] = int(values[0])
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"
