"""Compare the installed versions of packages with the lowest or the newest ones; exit with 1 if one differs.

python scripts/check_versions.py constraints-lowest.txt     # with the versions of a constraints file
python scripts/check_versions.py newest                     # with the newest that pyproject.toml allows
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
EXTRAS = ("openvino", "heic")  # with libraries that run without a GPU


def pins(path: Path) -> dict[str, str]:
    """Return the version of each package from the lines `package==version`."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def requirements(project: Mapping[str, Any]) -> list[Requirement]:
    """Return what the runtime requires, and its EXTRAS, as far as the project has them."""
    extras = project.get("optional-dependencies", {})
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in extras.get(extra, []))]
    return [Requirement(line) for line in lines]


def newer(required: Iterable[Requirement], outdated: Collection[Mapping[str, str]]) -> dict[str, str]:
    """Return the newest version of each required package that is outdated and may be newer.

    Args:
        required: The requirements.
        outdated: What `pip list --outdated --format json` says.
    """
    latest = {package["name"].lower(): package["latest_version"] for package in outdated}
    found = {one.name: latest[one.name.lower()] for one in required if one.name.lower() in latest}
    return {one.name: found[one.name] for one in required if one.name in found and found[one.name] in one.specifier}


def installed(package: str, otherwise: str = "none") -> str:
    """Return the installed version of a package, or `otherwise`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return otherwise


def main() -> int:
    """Print the installed versions, compare them with those wanted, and return the exit code."""
    required = requirements(tomllib.loads(PROJECT.read_text())["project"])
    if sys.argv[1] == "newest":
        line = [sys.executable, "-m", "pip", "list", "--outdated", "--format", "json", "--disable-pip-version-check"]
        outdated = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
        wanted = {one.name: installed(one.name, "any version") for one in required} | newer(required, outdated)
        remedy = "the newest that pyproject.toml allows: `pip install --upgrade` them"
    else:
        wanted = pins(Path(sys.argv[1]))
        remedy = f"the versions in {sys.argv[1]}: delete the environment and create it again"
    found = {package: installed(package) for package in wanted}
    print(", ".join(f"{package} {number}" for package, number in found.items()), flush=True)
    if wrong := [package for package in wanted if found[package] != wanted[package]]:
        print(f"{', '.join(f'{package} {wanted[package]}' for package in wrong)}: expected {remedy}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
