"""`vexpress-rt cache`: show the entries of the user's cache, or remove them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import groupby

from vexpress_rt.cli.progress import CommandProgress
from vexpress_rt.cli.terminal import open_stream
from vexpress_rt.errors import OutputError
from vexpress_rt.utils.signals import GracefulShutdown
from vexpress_rt.utils.user_cache import FOLDER_VARIABLE, LIMIT_VARIABLE, Entry, cache_settings, clear, entries

_AGES = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))  # in seconds


def run_cache(options: argparse.Namespace, shutdown: GracefulShutdown) -> str:
    """List the user's cache, or remove its entries with --clear.

    Args:
        options: The parsed flags.
        shutdown: Unused: there are no steps.

    Returns:
        The text to print.

    Raises:
        OutputError: An entry cannot be removed.
    """
    with CommandProgress(open_stream(sys.stderr)):  # prints the warnings of a folder that is not used
        settings, found = cache_settings(), entries()
        if settings.folder is None:
            return f"the cache is off: {settings.reason}"
        if options.clear:
            return f"{_clear(found)} removed from {settings.folder}"
    lines = [
        f"folder:  {settings.folder} ({FOLDER_VARIABLE})",
        f"limit:   {_size(settings.limit)} ({LIMIT_VARIABLE})",
        f"entries: {_count(len(found))}, {_size(sum(entry.size for entry in found))}",
    ]
    return "\n".join([*lines, *_table(found)])


def _clear(found: Sequence[Entry]) -> str:
    """Remove all entries; return their number and size as text."""
    size = clear()
    if left := [entry for entry in found if entry.path.exists()]:  # not those that another process stores meanwhile
        raise OutputError(
            f"{_count(len(left))} of the cache cannot be removed, such as {left[0].path}: make the folder writable, or "
            "end the programs that use its files"
        )
    return f"{_count(len(found))}, {_size(size)},"


def _table(found: Sequence[Entry]) -> list[str]:
    """Return a line for each kind of entry under a line of titles; none if there is no entry."""
    if not found:
        return []
    rows = [("kind", "entries", "size", "last used")]
    now = time.time()
    for kind, group in groupby(sorted(found, key=lambda entry: entry.kind), lambda entry: entry.kind):
        one = list(group)
        used = [entry.used for entry in one]
        ages = " to ".join(dict.fromkeys((_age(now - max(used)), _age(now - min(used)))))
        rows.append((kind, str(len(one)), _size(sum(entry.size for entry in one)), f"{ages} ago"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["", *(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in rows)]


def _count(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"


def _size(size: int) -> str:
    """Return bytes in the units of VEXPRESS_RT_CACHE_LIMIT, which are powers of 1024."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size} B"


def _age(seconds: float) -> str:
    """Return a time in the largest unit that it fills, at least one second."""
    whole = max(1, int(seconds))
    length, unit = next(pair for pair in _AGES if whole >= pair[0])
    number = whole // length
    return f"1 {unit}" if number == 1 else f"{number} {unit}s"
