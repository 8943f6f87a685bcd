"""Make the small bundle that ships, from nothing: `python -m export.pocket`.

It draws people and synthesizes speech with espeak-ng, trains, writes the checkpoint directory and builds the bundle.
That takes about three hours on two cores; an interrupted run resumes. `export.pocket.evaluate` measures the result.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from export.build.builder import build
from export.build.options import BuildOptions
from export.command import print_progress, run
from export.pocket import dataset, train
from export.pocket.architecture import SIZE, WINDOW
from export.pocket.pretraining import RunContext
from export.pocket.release import release
from vexpress_rt.bundle.engine_spec import VideoShape

PEOPLE = 2000


def make(work: Path, output: Path, people: int) -> None:
    """Make data, weights, checkpoint and bundle.

    Args:
        work: Directory of data, states and checkpoint; complete files there are kept.
        output: Directory of the bundle.
        people: Number of people to draw.

    Raises:
        ExportError: espeak-ng is missing, or the results of an engine differ from those of its torch module.
        OutputError: `output` cannot be written.
    """
    data, states, checkpoint = work / "data", work / "run", work / "checkpoint"
    print_progress(f"Drawing {people} people and recording speech: {data}")
    dataset.main(["--output", str(data), "--people", str(people)])
    print_progress(f"Training: {states}")
    train.main(["--data", str(data), "--output", str(states)])
    print_progress(f"Writing the checkpoint: {checkpoint}")
    shutil.rmtree(checkpoint, ignore_errors=True)  # of an earlier run, perhaps of other weights
    release(RunContext(data, states, print_progress), checkpoint)
    build(checkpoint, output, BuildOptions(VideoShape(SIZE, SIZE, WINDOW), compact=True), print_progress)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line arguments; None for those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m export.pocket", description="Make the small model that ships.")
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="data, states, checkpoint")
    parser.add_argument("--output", type=Path, default=Path("engines/pocket"), help="the bundle")
    parser.add_argument("--people", type=int, default=PEOPLE)
    given = parser.parse_args(arguments)
    return run(lambda: make(given.work, given.output, given.people))


if __name__ == "__main__":
    raise SystemExit(main())
