"""The choice of the bundle that a command reads."""

from __future__ import annotations

import sys
from contextlib import suppress

from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.cli.terminal import open_stream, say


def bundle_folder(named: str | None, *, quiet: bool = False) -> str:
    """Return the folder of the bundle that a command reads.

    Args:
        named: The folder that the user named; None chooses the shipped bundle and prints a line about it.
        quiet: Do not print that line.

    Raises:
        BundleNotFoundError: No folder was named, and the shipped bundle is missing.
    """
    if named is not None:
        return named
    folder = str(shipped_bundle())
    if not quiet:
        with suppress(OSError, ValueError):
            text = f"no bundle was named: taking the small one that ships with vexpress-rt, {folder}"
            say(text, open_stream(sys.stderr))
    return folder
