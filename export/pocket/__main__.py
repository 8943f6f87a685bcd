"""Everything from nothing to the bundle that ships: `python -m export.pocket`.

Draws people and records speech (with espeak-ng), trains, writes the checkpoint directory and builds the bundle from it.
About three hours on two cores; an interrupted run goes on where it stopped.
`export.pocket.evaluate` measures what comes out.
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
from export.pocket.pretraining import Place
from export.pocket.release import release
from vexpress_rt.bundle.engine_spec import VideoShape

PEOPLE = 2000


def make(work: Path, output: Path, people: int) -> None:
    """Everything, in `work`; the bundle goes to `output`."""
    data, states, checkpoint = work / "data", work / "run", work / "checkpoint"
    print_progress(f"Drawing {people} people and recording speech: {data}")
    dataset.main(["--output", str(data), "--people", str(people)])
    print_progress(f"Training: {states}")
    train.main(["--data", str(data), "--output", str(states)])
    print_progress(f"Writing the checkpoint: {checkpoint}")
    shutil.rmtree(checkpoint, ignore_errors=True)  # of an earlier run, perhaps of other weights
    release(Place(data, states, print_progress), checkpoint)
    build(checkpoint, output, BuildOptions(VideoShape(SIZE, SIZE, WINDOW), compact=True), print_progress)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m export.pocket", description="Make the small model that ships.")
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="data, states, checkpoint")
    parser.add_argument("--output", type=Path, default=Path("engines/pocket"), help="the bundle")
    parser.add_argument("--people", type=int, default=PEOPLE)
    given = parser.parse_args(arguments)
    return run(lambda: make(given.work, given.output, given.people))


if __name__ == "__main__":
    raise SystemExit(main())
