"""The control groups of this process (Linux, versions 1 and 2)."""

from __future__ import annotations

from pathlib import Path


def own_groups(root: Path, controller: str) -> dict[str, str]:
    """Return the paths of this process's control groups for a controller.

    Args:
        root: The folder that contains /proc.
        controller: "cpu" or "memory".

    Returns:
        The path of each group by the type of its file system: "cgroup2", "cgroup" or both; empty where there are none.

    Source: cgroups(7).
    """
    groups: dict[str, str] = {}
    for line in read_text(root / "proc" / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups["cgroup2"] = path
        elif controller in controllers.split(","):
            groups["cgroup"] = path
    return groups


def read_text(path: Path) -> str:
    """Return the content of a file of /proc or /sys; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
