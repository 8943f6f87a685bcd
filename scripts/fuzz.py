"""Fuzz every reader of the package, each input in a process with limits: `python scripts/fuzz.py --minutes 30`.

For each reader, the script prints the number of inputs that were accepted, refused with an error of the package, or
FAILED. An input fails if it raises any other exception, kills the process, exceeds the limits of time or memory, makes
the reader open other files, leaves files behind, or causes output on stderr. Inputs that fail are kept, with the
command to replay them, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the tests are not installed

from tests.robustness.campaign import Campaign, Limits, summary  # noqa: E402
from tests.robustness.readers import READERS  # noqa: E402


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=2, help="wall-clock time for all readers together (default: 2)")
    add("--seed", type=int, default=0, help="seed of the sequence of inputs (default: 0)")
    add("--only", nargs="+", choices=READERS, metavar="READER", help=f"readers: {', '.join(READERS)} (default: all)")
    add("--jobs", type=int, default=1, help="parallel processes (default: 1)")
    add(
        "--keep",
        type=Path,
        default=Path("out/fuzz"),
        metavar="DIR",
        help="folder for inputs that fail (default: out/fuzz)",
    )
    add("--seconds", type=float, default=10, help="limit of CPU time per input (default: 10)")
    add("--memory", type=int, default=600, metavar="MB", help="limit of memory per input (default: 600)")
    add(
        "--tree", type=Path, metavar="DIR", help="fuzz the package of another checkout with a .venv (default: this one)"
    )
    add("--replay", type=Path, metavar="FILE", help="read a kept input again and report the outcome")
    given = parser.parse_args()
    if given.jobs < 1 or given.minutes <= 0:
        parser.error("--jobs and --minutes must be above 0")
    tree = None if given.tree is None else given.tree.resolve()
    campaign = Campaign(given.seed, given.keep.resolve(), Limits(given.seconds, given.memory), tree)
    if given.replay is not None:
        tallies = [campaign.replay(given.replay)]
    else:
        tallies = campaign.run(given.only or READERS, 60 * given.minutes, given.jobs)
    print(summary(tallies))
    return int(any(tally.failures for tally in tallies))


if __name__ == "__main__":
    raise SystemExit(main())
