"""The small trained bundle that ships with the package."""

from __future__ import annotations

from pathlib import Path

from vexpress_rt.bundle.manifest import BUILD_COMMAND, MANIFEST
from vexpress_rt.errors import BundleNotFoundError
from vexpress_rt.utils.project_links import EXPORTER

_PACKAGE = Path(__file__).parents[1]
# In a wheel, and in a checkout, from which editable installations import.
CANDIDATES = (_PACKAGE / "engines" / "pocket", _PACKAGE.parent / "engines" / "pocket")


def shipped_bundle() -> Path:
    """Return the folder of the bundle that ships with this package. Raises BundleNotFoundError if it is missing."""
    for folder in CANDIDATES:
        if (folder / MANIFEST).is_file():
            return folder
    raise BundleNotFoundError(
        f"no bundle of engines was named, and the one that ships with vexpress_rt is missing: neither {CANDIDATES[0]} "
        f"nor {CANDIDATES[1]} holds a {MANIFEST}: install vexpress_rt again, restore engines/pocket in a checkout, or "
        f"name another bundle with --engines DIR or Generator('DIR'), such as `{BUILD_COMMAND} DIR` {EXPORTER} builds"
    )
