"""Compare training runs with and without dropout of single conditions (`export.pocket.train --keep-strong`).

    python -m export.pocket.ablation --weights build/pocket/checkpoint --report build/pocket/ablation.md \\
        --runs build/pocket/with-0 build/pocket/with-1 build/pocket/without-0 build/pocket/without-1

A bundle is built from each run, over the other weights of the checkpoint directory. The measure is the correlation of
the mouth's opening with the speech's openness, of people outside the training data, with the head held and driven, at
guidance 1 and at the recommended guidance. Runs of both kinds must have equal seeds and steps.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export import command
from export.build.builder import build
from export.build.options import BuildOptions
from export.checkpoint.trained_files import TrainingChoice
from export.checkpoint.training_states import read_contents
from export.errors import CheckpointError, ExportError
from export.pocket.architecture import FPS, SIZE, WINDOW
from export.pocket.evaluate.cases import Case, cases_of
from export.pocket.evaluate.measuring import correlation
from export.pocket.evaluate.report import commit
from export.pocket.evaluate.subjects import FIRST, make_subject
from export.pocket.evaluate.video_sources import Frames, GeneratedVideos, Portraits
from export.pocket.faces import mouth_opening
from export.pocket.stage_records import read_records
from vexpress_rt import GenerationConfig
from vexpress_rt.bundle.engine_spec import VideoShape
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.utils.cpu_model import cpu_model

STAGES = ("single", "voice", "all")  # compared stages of a run
LAST = 3  # number of the last of them, of `export.build --stage`
LEAST = 2  # runs of each kind
SCENES = {"voice": "head held", "photo": "head driven"}  # scenes of `export.pocket.evaluate` with speech
KINDS = {True: "with dropout", False: "without dropout"}


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run.

    Attributes:
        folder: Its folder.
        dropout: Whether photo and keypoints were dropped alone.
        seed: Seed of its random numbers.
        steps: Steps by stage.
    """

    folder: Path
    dropout: bool
    seed: int
    steps: Mapping[str, int]


@dataclass(frozen=True)
class Lips:
    """Correlations of the lips of a run's model.

    Attributes:
        run: The run.
        guidance: Scale of guidance.
        values: By scene, the correlation of each person.
    """

    run: TrainedRun
    guidance: float
    values: Mapping[str, Sequence[float]]

    def median(self, scene: str) -> float:
        """Return the median over people.

        Args:
            scene: One of SCENES.
        """
        return float(np.median(self.values[scene]))


def read_run(folder: Path) -> TrainedRun:
    """Read the settings of a run, and check that it is finished and began from nothing.

    Args:
        folder: The folder of the run.

    Raises:
        CheckpointError: A stage has no record, was not finished or was recovered, or the stages differ in seed or
            dropout.
    """
    records = read_records(folder)
    if missing := [name for name in STAGES if name not in records]:
        raise CheckpointError(
            f"{folder} has no record of the stages {', '.join(missing)}; expected a folder of `python -m "
            f"export.pocket.train --output {folder}` with all of {', '.join(STAGES)}: train these stages there"
        )
    kinds = {(records[name].seed, records[name].keep_strong) for name in STAGES}
    if len(kinds) > 1:
        raise CheckpointError(
            f"{folder} has stages of several seeds, or with and without --keep-strong; expected one of each: train "
            f"{', '.join(STAGES)} with the same options"
        )
    steps = {name: records[name].steps for name in STAGES}
    for name in STAGES:
        path = folder / f"{name}.pt"
        done, _ = read_contents(path) if path.exists() else (0, set())
        if done is None:
            raise CheckpointError(
                f"{path} was recovered from a bundle; expected a training from nothing: train {', '.join(STAGES)} in "
                "another folder"
            )
        if done != steps[name]:
            raise CheckpointError(
                f"{path} has {done} steps of {steps[name]}: repeat the training, which continues, until it ends"
            )
    ((seed, keep_strong),) = kinds
    return TrainedRun(folder, not keep_strong, seed, steps)


def check_fair(runs: Sequence[TrainedRun]) -> None:
    """Check that runs of both kinds differ in nothing but the dropout.

    Args:
        runs: The runs.

    Raises:
        ExportError: There are fewer than LEAST runs of a kind, or their seeds or steps differ.
    """
    seeds = {dropout: sorted(run.seed for run in runs if run.dropout == dropout) for dropout in KINDS}
    for dropout, found in seeds.items():
        if len(set(found)) < LEAST or len(set(found)) < len(found):
            raise ExportError(
                f"the runs {KINDS[dropout]} have the seeds {found}; expected at least {LEAST} runs of different seeds: "
                "train more with `python -m export.pocket.train --seed`" + ("" if dropout else " and --keep-strong")
            )
    if seeds[True] != seeds[False]:
        raise ExportError(
            f"the runs with dropout have the seeds {seeds[True]}, those without {seeds[False]}; expected equal seeds"
        )
    if other := [run for run in runs if run.steps != runs[0].steps]:
        raise ExportError(
            f"{other[0].folder} took the steps {dict(other[0].steps)}, {runs[0].folder} took {dict(runs[0].steps)}; "
            "expected equal steps"
        )


def measure_lips(make: Callable[[Case], Frames], cases: Sequence[Case]) -> dict[str, list[float]]:
    """Return the correlation of the lips in each video, by scene.

    Args:
        make: Makes the frames of a video.
        cases: The videos, of the scenes SCENES.
    """
    found: dict[str, list[float]] = {scene: [] for scene in SCENES}
    for case in cases:
        pairs = zip(make(case), case.points, strict=True)
        openings = np.array([mouth_opening(frame, points) for frame, points in pairs])
        found[case.scene].append(correlation(openings, case.followed))
    return found


def markdown(lips: Sequence[Lips], facts: Sequence[str]) -> str:
    """Return the page with the table and what came out.

    Args:
        lips: The measurements of all runs at all scales of guidance.
        facts: Lines about the conditions.
    """
    scales = sorted({each.guidance for each in lips})
    rows = [
        [KINDS[dropout], f"{scale:g}", *(_cell(_values(lips, dropout, scale, scene)) for scene in SCENES)]
        for dropout in KINDS
        for scale in scales
    ]
    return "\n".join(
        [
            "# Ablation of conditional dropout",
            "",
            "V-Express drops photo and keypoints, the strong conditions, alone and more and more often while it is "
            "trained, so that it learns to follow the speech (arXiv 2406.02511, section 3.3). The small model was "
            "trained from nothing with this dropout and without it, with equal seeds and steps. All conditions "
            "together were dropped in all runs, for guidance.",
            "",
            "Correlation of the mouth's opening with the speech's openness: median of the runs, and each run.",
            "",
            f"| training | guidance | {' | '.join(f'lips, {how}' for how in SCENES.values())} |",
            f"|---|---|{'---|' * len(SCENES)}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            "## Outcome",
            "",
            *(f"* {_outcome(lips, scale, scene)}" for scale in scales for scene in SCENES),
            "",
            "## How",
            "",
            *(f"* {fact}" for fact in facts),
            "",
        ]
    )


def _values(lips: Sequence[Lips], dropout: bool, guidance: float, scene: str) -> dict[int, float]:
    """Return the medians of the runs of a kind, by seed."""
    found = {
        each.run.seed: each.median(scene) for each in lips if each.run.dropout == dropout and each.guidance == guidance
    }
    return dict(sorted(found.items()))


def _cell(values: Mapping[int, float]) -> str:
    each = ", ".join(f"{value:.3f}" for value in values.values())
    return f"{np.median(list(values.values())):.3f} ({each})"


def _outcome(lips: Sequence[Lips], guidance: float, scene: str) -> str:
    """Describe the differences between runs of equal seeds."""
    before, after = (_values(lips, dropout, guidance, scene) for dropout in (False, True))
    pairs = {seed: after[seed] - before[seed] for seed in after}
    signs = {np.sign(round(difference, 3)) for difference in pairs.values()}
    each = ", ".join(f"{difference:+.3f} (seed {seed})" for seed, difference in pairs.items())
    outcome = "the pairs of runs do not agree on a difference"
    if signs in ({1.0}, {-1.0}):
        change = float(np.median(list(pairs.values())))
        outcome = f"dropout {'raises' if change > 0 else 'lowers'} the correlation by {abs(change):.3f} in the median"
    return f"Guidance {guidance:g}, {SCENES[scene]}: {outcome}; {each}."


def _ablate(given: argparse.Namespace, line: str) -> None:
    if not 1 <= given.people <= 1000 or not 1 <= given.seconds <= 60:
        raise ExportError(f"--people is {given.people} and --seconds {given.seconds:g}; expected 1 to 1000 and 1 to 60")
    if not given.report.parent.is_dir():
        raise ExportError(f"{given.report} cannot be written: {given.report.parent} is not a folder; make it")
    runs = [read_run(folder) for folder in given.runs]
    check_fair(runs)
    command.print_progress("Drawing people and synthesizing speech")
    subjects = [make_subject(FIRST + i) for i in range(given.people)]
    cases = [case for subject in subjects for case in cases_of(subject, given.seconds) if case.scene in SCENES]
    lips, options = list[Lips](), ""
    for run in runs:
        bundle = given.work / f"{'with' if run.dropout else 'without'}-{run.seed}"
        choice = TrainingChoice(run.folder, LAST)
        build(
            given.weights, bundle, BuildOptions(VideoShape(SIZE, SIZE, WINDOW), training=choice), command.print_progress
        )
        with Generator(bundle, provider="cpu", threads=given.threads) as generator:
            portraits, settings = Portraits(generator), generator.bundle.manifest.settings(GenerationConfig())
            options = f"{settings.sampler}, {settings.steps} steps"
            for scale in given.guidance or sorted({1.0, settings.guidance_scale}):
                make = GeneratedVideos(portraits, GenerationConfig(fps=FPS, guidance_scale=scale))
                lips.append(Lips(run, scale, measure_lips(make, cases)))
                found = ", ".join(f"{how} {lips[-1].median(scene):.3f}" for scene, how in SCENES.items())
                command.print_progress(f"{run.folder}, guidance {scale:g}: {found}")
    _write(given, lips, _facts(given, line, runs, options))


def _facts(given: argparse.Namespace, line: str, runs: Sequence[TrainedRun], options: str) -> list[str]:
    steps = ", ".join(f"{name} {count}" for name, count in runs[0].steps.items())
    seeds = " and ".join(map(str, sorted({run.seed for run in runs})))
    return [
        f"`{line}`",
        f"Runs: seeds {seeds}, steps {steps}; all other weights are those of one checkpoint directory.",
        f"Videos: {given.people} people outside the training data, {given.seconds:g} s each, with own speech and the "
        "head held, and with speech and motion that all share; the same noise for all runs. "
        f"Median over people; {options}; recommended weights of photo and speech.",
        f"Commit {commit()}; {os.cpu_count()} cores of {cpu_model().describe()}.",
    ]


def _write(given: argparse.Namespace, lips: Sequence[Lips], facts: Sequence[str]) -> None:
    found = [
        {
            "run": str(each.run.folder), "dropout": each.run.dropout, "seed": each.run.seed,
            "steps": dict(each.run.steps), "guidance": each.guidance, "lips": dict(each.values),
        }
        for each in lips
    ]  # fmt: skip
    files = {given.report: markdown(lips, facts), given.json: json.dumps(found, indent=1)}
    for path, text in files.items():
        if path is not None:
            part = path.with_name(f".{path.name}.part")
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.pocket.ablation", description=__doc__.splitlines()[0] if __doc__ else None
    )
    add = parser.add_argument
    add("--weights", type=Path, required=True, metavar="DIR", help="checkpoint directory with the other weights")
    add("--runs", type=Path, nargs="+", required=True, metavar="DIR", help="finished runs, two or more of each kind")
    add("--work", type=Path, default=Path("build/pocket/ablation"), help="folder for the bundles")
    add("--people", type=int, default=20, help="people to measure (default: 20)")
    add("--seconds", type=float, default=3.0, help="duration of each video (default: 3)")
    add("--guidance", type=float, nargs="+", help="scales of guidance (default: 1, and the recommended one)")
    add("--threads", type=int, help="CPU threads (default: one per core)")
    add("--report", type=Path, required=True, help="Markdown file to write")
    add("--json", type=Path, help="file for all measurements")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line arguments; None for those of the process.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    given = _parser().parse_args(arguments)
    line = shlex.join(["python", "-m", "export.pocket.ablation", *arguments])
    return command.run(lambda: _ablate(given, line), "interrupted: no report was written")


if __name__ == "__main__":
    sys.exit(main())
