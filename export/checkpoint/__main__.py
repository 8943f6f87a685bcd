"""Write synthetic weights: `python -m export.checkpoint --preset tiny --seed 0 --output DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.checkpoint.presets import PRESETS
from export.checkpoint.synthetic import write_synthetic_checkpoint
from export.command import print_progress, run


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line arguments; None for those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m export.checkpoint", description="Write synthetic weights.")
    parser.add_argument("--preset", choices=sorted(PRESETS), required=True, help="sizes of the networks")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, in the official layout")
    given = parser.parse_args(arguments)
    return run(
        lambda: write_synthetic_checkpoint(given.output, PRESETS[given.preset], given.seed, report=print_progress)
    )


if __name__ == "__main__":
    raise SystemExit(main())
