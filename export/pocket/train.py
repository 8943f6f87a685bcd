"""Train the small model, stage after stage. An interrupted run resumes.

    python -m export.pocket.train --data build/pocket/data --output build/pocket/run

The stages are:

* autoencoder, hearing, detector: train the autoencoder, the audio encoder and the face detector.
* encode: turns the training data into latents and audio features.
* projection: trains the audio projection alone.
* single: trains on photo and keypoints of single frames, without audio and motion modules.
* voice: trains audio projection, audio attentions and motion modules.
* all: trains all parameters.
* decoder: trains the decoder of the autoencoder once more.

Losses are written to train.log, the settings of each stage to stages.json, and sample sheets beside them. For
comparisons, --share shortens every stage, --seed changes all random numbers, and --keep-strong turns off the dropout of
single conditions, the main point of the method; `export.pocket.ablation` compares such runs.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from export.command import run
from export.pocket.denoising import train_projection, train_stage
from export.pocket.detector import DETECTOR, train_detector
from export.pocket.encoded_data import encode
from export.pocket.pretraining import RunContext, train_audio_encoder, train_autoencoder, train_decoder
from export.pocket.stage_records import StageRecord, record_stage
from export.pocket.training_loop import TrainingSchedule
from vexpress_rt.utils.cpus import usable_cpus

STAGES = {
    "autoencoder": (train_autoencoder, TrainingSchedule(steps=2400, learning_rate=2.5e-3, ema_decay=0.99)),
    "hearing": (train_audio_encoder, TrainingSchedule(steps=500, learning_rate=2e-3, ema_decay=0.99)),
    "detector": (train_detector, DETECTOR),
    "encode": (lambda context, _: encode(context), TrainingSchedule(steps=0)),
    "projection": (
        train_projection,
        TrainingSchedule(steps=1500, learning_rate=2e-3, report_every=250, save_every=500),
    ),
    "single": (partial(train_stage, name="single"), TrainingSchedule(steps=1000)),
    "voice": (partial(train_stage, name="voice"), TrainingSchedule(steps=300, learning_rate=3e-3, warmup=50)),
    "all": (partial(train_stage, name="all"), TrainingSchedule(steps=3850, learning_rate=7e-4, warmup=30)),
    "decoder": (train_decoder, TrainingSchedule(steps=3000, learning_rate=1e-3, ema_decay=0.995)),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line arguments; None for those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description="Train the pocket model.")
    parser.add_argument("--data", type=Path, default=Path("build/pocket/data"))
    parser.add_argument("--output", type=Path, default=Path("build/pocket/run"))
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop then; the next run resumes")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--share", type=float, default=1.0, help="share of each stage's steps to take (default: 1)")
    parser.add_argument("--keep-strong", action="store_true", help="never drop photo or keypoints alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers, 0 to 999999 (default: 0)")
    given = parser.parse_args(arguments)
    for name, valid, expected in (
        ("seed", 0 <= given.seed < 1_000_000, "0 to 999999"),
        ("share", 0 < given.share < math.inf, "more than 0"),
        ("minutes", given.minutes > 0, "more than 0"),
        ("threads", given.threads > 0, "at least 1"),
    ):
        if not valid:
            parser.error(f"--{name} is {getattr(given, name)}; expected {expected}")
    return run(lambda: _train(given), "interrupted; the next run resumes from the last states")


def _train(given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    given.output.mkdir(parents=True, exist_ok=True)
    with (given.output / "train.log").open("a", encoding="utf-8") as log:

        def report(line: str) -> None:
            for file in (log, None):
                print(line, file=file, flush=True)

        deadline = time.time() + 60 * given.minutes
        context = RunContext(given.data, given.output, report, deadline, given.threads, given.keep_strong, given.seed)
        for name in given.stages:
            function, schedule = STAGES[name]
            steps = round(given.share * schedule.steps)
            record_stage(given.output, name, StageRecord(given.seed, steps, given.keep_strong))
            function(context, replace(schedule, steps=steps))
            if time.time() >= context.deadline:
                break


if __name__ == "__main__":
    raise SystemExit(main())
