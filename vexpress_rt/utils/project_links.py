"""Addresses of the project that messages name. `[project.urls]` of pyproject.toml has the same."""

from __future__ import annotations

SOURCE = "https://github.com/vexpress-rt/vexpress-rt"
DOCUMENTATION = "https://vexpress-rt.github.io/vexpress-rt/"

# The installed package has no exporter, so a message that names `python -m export.build` also names its place.
EXPORTER_PLACE = f"in a checkout of the repository, see {DOCUMENTATION}bundles.html"
EXPORTER = f"({EXPORTER_PLACE})"
