"""Compare the installed versions of packages with a constraints file; exit with 1 if one differs.

python scripts/check_versions.py constraints-lowest.txt
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def pins(path: Path) -> dict[str, str]:
    """Return the version of each package from the lines `package==version`."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def installed(package: str) -> str:
    """Return the installed version of a package, or `none`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def main() -> int:
    """Print the installed versions, compare them with the file's, and return the exit code."""
    wanted = pins(Path(sys.argv[1]))
    found = {package: installed(package) for package in wanted}
    print(", ".join(f"{package} {number}" for package, number in found.items()), flush=True)
    if wrong := [package for package in wanted if found[package] != wanted[package]]:
        print(
            f"{', '.join(wrong)}: expected the versions in {sys.argv[1]}: delete the environment and create it again",
            file=sys.stderr,
        )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
