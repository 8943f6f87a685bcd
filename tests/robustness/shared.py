"""Files outside the checkout that were once read wrongly."""

from __future__ import annotations

from collections.abc import Set

from tests.robustness.cases import Case
from tests.support.paths import ROOT

FOLDER = ROOT.resolve().parent / "shared" / "cases"  # only some checkouts have it


def shared_cases(suffixes: Set[str]) -> list[Case]:
    """Return the cases with these suffixes; none without the folder."""
    if not FOLDER.is_dir():
        return []
    paths = (path for path in sorted(FOLDER.iterdir()) if path.suffix in suffixes)
    return [Case(path.suffix, path.read_bytes()) for path in paths]
