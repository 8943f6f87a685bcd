"""Trains the small model, stage after stage; an interrupted run goes on where it stopped.

    python -m export.pocket.train --data build/pocket/data --output build/pocket/run

autoencoder, hearing, detector: what surrounds the model.  encode: the data as the model sees them.
projection: of the audio, to tell the mouth.  single: photo and keypoints, single frames, nothing heard, no motion.
voice: audio projection, audio attention and motion modules, the rest frozen.  all: everything together.
decoder: goes on alone. Losses go to train.log, pictures to look at beside it.

For comparisons: --share makes every stage shorter, and --keep-strong leaves out what the method is about, the dropout
of photo and keypoints while the voice is learned.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from export.pocket.denoising import train_projection, train_stage
from export.pocket.detector import DETECTOR, train_detector
from export.pocket.material import encode
from export.pocket.pretraining import Place, train_autoencoder, train_decoder, train_hearing
from export.pocket.runs import Schedule
from vexpress_rt.utils.cpus import usable_cpus

STAGES = {
    "autoencoder": (train_autoencoder, Schedule(steps=2400, rate=2.5e-3, average=0.99)),
    "hearing": (train_hearing, Schedule(steps=500, rate=2e-3, average=0.99)),
    "detector": (train_detector, DETECTOR),
    "encode": (lambda place, _: encode(place), Schedule(steps=0)),
    "projection": (train_projection, Schedule(steps=1500, rate=2e-3, report_every=250, save_every=500)),
    "single": (partial(train_stage, name="single"), Schedule(steps=1000)),
    "voice": (partial(train_stage, name="voice"), Schedule(steps=300, rate=3e-3, warm=50)),
    "all": (partial(train_stage, name="all"), Schedule(steps=3850, rate=7e-4, warm=30)),
    "decoder": (train_decoder, Schedule(steps=3000, rate=1e-3, average=0.995)),
}


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the pocket model.")
    parser.add_argument("--data", type=Path, default=Path("build/pocket/data"))
    parser.add_argument("--output", type=Path, default=Path("build/pocket/run"))
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop then; the next run goes on")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--share", type=float, default=1.0, help="of each stage's steps that are taken")
    parser.add_argument("--keep-strong", action="store_true", help="never drop photo or keypoints alone")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.output.mkdir(parents=True, exist_ok=True)
    with (given.output / "train.log").open("a", encoding="utf-8") as log:

        def report(line: str) -> None:
            for file in (log, None):
                print(line, file=file, flush=True)

        deadline = time.time() + 60 * given.minutes
        place = Place(given.data, given.output, report, deadline, given.threads, given.keep_strong)
        for name in given.stages:
            function, schedule = STAGES[name]
            function(place, replace(schedule, steps=round(given.share * schedule.steps)))
            if time.time() >= place.deadline:
                break
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
