"""Where the small trained bundle lies that comes with the package."""

from __future__ import annotations

from pathlib import Path

from vexpress_rt.bundle.manifest import BUILD_COMMAND, MANIFEST
from vexpress_rt.errors import BundleNotFoundError
from vexpress_rt.utils.links import EXPORTER

_PACKAGE = Path(__file__).parents[1]
# As wheels hold it; and beside the package, as in a checkout, from which an editable installation imports as well.
PLACES = (_PACKAGE / "engines" / "pocket", _PACKAGE.parent / "engines" / "pocket")


def shipped_bundle() -> Path:
    """The folder of the bundle that ships with this package. Raises BundleNotFoundError if it came without."""
    for folder in PLACES:
        if (folder / MANIFEST).is_file():
            return folder
    raise BundleNotFoundError(
        f"no bundle of engines was named, and the one that ships with vexpress_rt is missing: neither {PLACES[0]} nor "
        f"{PLACES[1]} holds a {MANIFEST}: install vexpress_rt again, restore engines/pocket in a checkout, or name "
        f"another bundle with --engines DIR or Generator('DIR'), such as `{BUILD_COMMAND} DIR` {EXPORTER} builds"
    )
