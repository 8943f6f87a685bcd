"""Evaluate a bundle of the small model at full settings, at live settings and in live sessions.

Full settings are those that the bundle recommends for videos, live settings those that it recommends for live sessions.
With --drawings, drawings of the expected videos are evaluated: the best values that can be reached.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
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
from export.pocket.evaluate.video_sources import GeneratedVideos, LiveVideos, Portraits, draw_case
from vexpress_rt import GenerationConfig
from vexpress_rt.config import RECOMMENDABLE
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
SETTINGS = ("full", "live", "session")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export.pocket.evaluate", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", type=Path, help="folder of the engines")
    source.add_argument("--drawings", action="store_true", help="measure drawings instead of generated videos")
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each video (default: 3)")
    parser.add_argument(
        "--settings", choices=SETTINGS, nargs="+", default=list(SETTINGS), help="settings to evaluate (default: all)"
    )
    for prefix, settings, usual in (("", FULL, ""), ("live-", LIVE, " for live sessions")):
        for flag, (option, kind) in OPTIONS.items():
            text = f"{option.replace('_', ' ')} of the {settings} (default: as the bundle recommends{usual})"
            parser.add_argument(f"--{prefix}{flag}", type=kind, help=text)
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
    full = manifest.settings(_config(given, ""))
    live = manifest.settings(_config(given, "live_"), live=True)
    made = {
        "full": (FULL, GeneratedVideos(portraits, full), full),
        "live": (LIVE, GeneratedVideos(portraits, live), live),
        "session": (SESSION, LiveVideos(portraits, live), live),
    }
    sources = {}
    for key in SETTINGS:
        if key in given.settings:
            name, make, settings = made[key]
            sources[name] = Source(make, {o: getattr(settings, o) for o in RECOMMENDABLE if o != "fps"})
    return sources


def _config(given: argparse.Namespace, prefix: str) -> GenerationConfig:
    """Return the options of the flags with a prefix; the bundle determines the others. Raises ConfigError."""
    chosen = {option: getattr(given, prefix + flag.replace("-", "_")) for flag, (option, _) in OPTIONS.items()}
    return GenerationConfig(fps=FPS, **chosen)


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
