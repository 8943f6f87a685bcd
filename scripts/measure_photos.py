"""Measure memory and time of decoding the most demanding photos: `python scripts/measure_photos.py`.

Each photo is decoded in a process of its own. The script prints the growth of the process's peak memory in MB, its CPU
time in seconds, and the outcome. The exit code is 1 if a photo exceeds the limits in docs/files.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the tests are not installed

from tests.support.photo_bombs import BOMBS  # noqa: E402
from tests.support.photo_limits import LARGEST, MOST_MEGABYTES, MOST_SECONDS, measure  # noqa: E402


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=BOMBS, metavar="NAME", help=f"of {'; '.join(BOMBS)} (default: all)")
    words = "share of the number of pixels or parts, in (0, 1] (default: 1, and the largest accepted scale)"
    add("--scale", type=float, help=words)
    add("--cut", type=int, default=0, metavar="BYTES", help="bytes to remove from the end of each file (default: 0)")
    given = parser.parse_args()
    scales = [(name, given.scale or 1.0) for name in given.only or BOMBS]
    if given.scale is None:
        scales += [(name, scale) for name, scale in LARGEST.items() if name in (given.only or BOMBS)]
    too_much = False
    for name, scale in scales:
        with tempfile.TemporaryDirectory() as folder:
            grown, seconds, outcome = measure(Path(folder), {name: scale}, given.cut)[name]
        too_much |= grown >= MOST_MEGABYTES or seconds >= MOST_SECONDS
        print(f"{name:36} {scale:6.4g} {grown:6.0f} MB {seconds:6.2f} s  {outcome}", flush=True)
    return int(too_much)


if __name__ == "__main__":
    raise SystemExit(main())
