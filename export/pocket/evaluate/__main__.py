"""Evaluate a bundle of the small model at full settings, at live settings and in live sessions.

With --drawings, drawings of the expected videos are evaluated: the best values that can be reached.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from export import command
from export.errors import ExportError
from export.pocket.architecture import FPS
from export.pocket.evaluate.cases import all_cases
from export.pocket.evaluate.evaluation import Source, evaluate
from export.pocket.evaluate.figures import FULL, LIVE, SESSION, Results
from export.pocket.evaluate.live_speed import LiveSpeed, read_live_speed
from export.pocket.evaluate.report import Run, as_json, commit, markdown
from export.pocket.evaluate.sheet import Shot, draw_sheet
from export.pocket.evaluate.subjects import FIRST, GALLERY, make_subject
from export.pocket.evaluate.video_sources import LIVE_OPTIONS, GeneratedVideos, LiveVideos, Portraits, draw_case
from vexpress_rt import GenerationConfig
from vexpress_rt.bundle.manifest import Manifest
from vexpress_rt.config import RECOMMENDABLE, Settings
from vexpress_rt.pipeline.generator import Generator

OPTIONS = {  # options of GenerationConfig and their types, by flag
    "preset": ("preset", str),
    "sampler": ("sampler", str),
    "steps": ("steps", int),
    "guidance": ("guidance_scale", float),
    "reference-weight": ("reference_attention_weight", float),
    "audio-weight": ("audio_attention_weight", float),
    "overlap": ("overlap", int),
}
LIVE_FLAGS = {flag: OPTIONS[flag][1] for flag in ("sampler", "steps", "guidance", "overlap")}
SETTINGS = ("full", "live", "session")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export.pocket.evaluate", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", type=Path, help="folder of the engines")
    source.add_argument("--drawings", action="store_true", help="measure drawings instead of generated videos")
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each video (default: 3)")
    for flag, (option, kind) in OPTIONS.items():
        parser.add_argument(
            f"--{flag}", dest=option, type=kind, help=f"{option.replace('_', ' ')} (default: as the bundle recommends)"
        )
    parser.add_argument(
        "--settings", choices=SETTINGS, nargs="+", default=list(SETTINGS), help="settings to evaluate (default: all)"
    )
    for flag, kind in LIVE_FLAGS.items():
        parser.add_argument(
            f"--live-{flag}", type=kind, help=f"{OPTIONS[flag][0]} of live mode (default: as recommended for it)"
        )
    parser.add_argument(
        "--live-speed", type=Path, metavar="FILE", help="speed by `python -m benchmarks.live --json FILE`"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: one per core)")
    parser.add_argument("--real-speech", type=Path, nargs="+", default=[], metavar="FILE", help="recordings")
    parser.add_argument("--report", type=Path, help="Markdown file to write (default: print it)")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    parser.add_argument("--sheet", type=Path, help="PNG with frames and curves")
    return parser


def _evaluate(given: argparse.Namespace, line: str) -> None:
    _check(given)
    start, shots = time.monotonic(), list[Shot]()
    speed = None if given.live_speed is None else read_live_speed(given.live_speed)
    with ExitStack() as stack:
        if given.drawings:
            depth = True
            sources, described = {"drawings": Source(draw_case, {})}, "drawings of the expected videos, not the model"
        else:
            generator = stack.enter_context(Generator(given.bundle, provider="cpu", threads=given.threads))
            depth = "depth" in generator.bundle.manifest.model.guiders
            sources, described = _sources(generator, given), f"bundle {generator.bundle.identity}"
        command.print_progress("Drawing people and synthesizing speech")
        subjects = [make_subject(FIRST + i) for i in range(max(given.people, GALLERY))]
        cases = all_cases(subjects[: given.people], given.seconds, given.real_speech, depth=depth)
        results = evaluate(sources, subjects, cases, command.print_progress, shots)
    run = Run(line, described, given.people, given.seconds, (time.monotonic() - start) / 60)
    _write(given, run, results, speed, shots)


def _sources(generator: Generator, given: argparse.Namespace) -> dict[str, Source]:
    """Return the sources of the videos by the names of their settings, in the order of SETTINGS."""
    portraits, manifest = Portraits(generator), generator.bundle.manifest
    full, live = manifest.settings(_config(given)), _live_settings(manifest, given)
    made = {
        "full": (FULL, GeneratedVideos(portraits, full), full),
        "live": (LIVE, GeneratedVideos(portraits, live), live),
        "session": (SESSION, LiveVideos(portraits, live), live),
    }
    chosen = [made[key] for key in SETTINGS if key in given.settings]
    return {
        name: Source(make, {option: getattr(settings, option) for option in RECOMMENDABLE if option != "fps"})
        for name, make, settings in chosen
    }


def _live_settings(manifest: Manifest, given: argparse.Namespace) -> Settings:
    """Return the settings of live mode. Precedence: the flags, the bundle, LIVE_OPTIONS. Raises ConfigError."""
    config = _config(given, [flag for flag in OPTIONS if flag not in ("preset", *LIVE_FLAGS)])
    flags = {OPTIONS[flag][0]: getattr(given, f"live_{flag}") for flag in LIVE_FLAGS}
    usual = {} if manifest.recommended_live else LIVE_OPTIONS
    live = {**usual, **{option: value for option, value in flags.items() if value is not None}}
    return manifest.settings(replace(config, **live), live=True)


def _config(given: argparse.Namespace, flags: Iterable[str] = OPTIONS) -> GenerationConfig:
    """Return the options of the given flags; the bundle determines the others. Raises ConfigError."""
    values = {OPTIONS[flag][0]: getattr(given, OPTIONS[flag][0]) for flag in flags}
    return GenerationConfig(fps=FPS, **{option: value for option, value in values.items() if value is not None})


def _check(given: argparse.Namespace) -> None:
    """Raise ExportError for wrong options and outputs, before minutes of work."""
    for name, low, high in (("people", 1, 1000), ("seconds", 1, 60)):
        if not low <= (value := getattr(given, name)) <= high:
            raise ExportError(f"--{name} is {value}; expected {low} to {high}")
    for path in (given.report, given.json, given.sheet):
        if path is not None and not path.parent.is_dir():
            raise ExportError(f"{path} cannot be written: {path.parent} is not a folder; make it, or name another")


def _write(
    given: argparse.Namespace, run: Run, results: Mapping[str, Results], speed: LiveSpeed | None, shots: list[Shot]
) -> None:
    text = markdown(run, results, speed)
    if given.report is None:
        command.print_progress(text)
    else:
        _write_file(given.report, text.encode())
    if given.json is not None:
        _write_file(given.json, json.dumps(as_json(run, results, speed), indent=1).encode())
    if given.sheet is not None:
        part = given.sheet.with_name(f".{given.sheet.name}.part")
        draw_sheet(f"{run.source}; commit {commit()}", shots).save(part, "PNG")
        os.replace(part, given.sheet)


def _write_file(path: Path, content: bytes) -> None:
    """Write a file, which appears when it is complete."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line arguments; None for those of the process.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    given = _parser().parse_args(arguments)
    line = shlex.join(["python", "-m", "export.pocket.evaluate", *arguments])
    return command.run(lambda: _evaluate(given, line), "interrupted: nothing was written")


if __name__ == "__main__":
    sys.exit(main())
