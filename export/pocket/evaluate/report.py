"""The report of an evaluation, as Markdown and as JSON."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from export.pocket.architecture import FPS
from export.pocket.evaluate.cases import RECORDED_PEOPLE, RECORDED_SECONDS, SHARED
from export.pocket.evaluate.figures import Figure, SingleSignal, balance, headline
from export.pocket.evaluate.measuring import EVERY, Measured
from export.pocket.evaluate.subjects import FIRST, GALLERY
from vexpress_rt import __version__


@dataclass(frozen=True)
class Run:
    """The conditions of an evaluation.

    Attributes:
        command: Command line that repeats it.
        source: Description of the source of the videos.
        options: Options of `GenerationConfig`, by name.
        people: Number of people in each scene.
        seconds: Duration of each video.
        minutes: Duration of the evaluation.
    """

    command: str
    source: str
    options: Mapping[str, Any]
    people: int
    seconds: float
    minutes: float

    def facts(self) -> list[str]:
        """Return lines about the conditions of the figures."""
        options = ", ".join(f"{name} {value}" for name, value in self.options.items())
        last = FIRST + self.people - 1
        versions = ", ".join(f"{name} {number}" for name, number in tools().items())
        return [
            f"Videos: {self.source}{options and f' with {options}'}; {self.seconds:g} s of each scene and person, "
            f"{FPS} frames per second.",
            f"People, their own speech, motion and noise: seeds {FIRST} to {last}; speech, motion and noise "
            f"that all people share: seed {SHARED}. Training uses seeds far below.",
            f"Commit {commit()}; {versions}; {os.cpu_count()} cores, {self.minutes:.1f} minutes in all.",
        ]


HOW = f"""\
* Scenes, one video of each person: *voice* (own speech, head held with `fix_face`), *silence* (nothing or a steady
  noise, head held), *pose* (no sound, driven by own keypoints), *photo* (speech, keypoints and noise that are the same
  for everybody). Recorded speech: the first {RECORDED_SECONDS:g} s, the first {RECORDED_PEOPLE} people, head held.
* The photo is the person drawn looking ahead with a closed mouth; its keypoints are given, not detected.
* Mouth: `export.pocket.faces.mouth_opening` of each frame at the keypoints that drive it; Pearson's correlation over a
  video's frames with `export.pocket.lips.mouth_track`'s openness, or with the A-weighted loudness of recorded speech.
  Beyond closed: the opening minus that of a drawing of the same person and pose with a closed mouth, as a share of
  the range up to a wide open mouth.
* Nose: `export.pocket.faces.nose_place`, by comparison with a drawing of that person in the expected pose; of
  moving heads in every {EVERY}rd frame.
* Identity: `identity_patch` of each frame of all four scenes, `identity_distance` to the photo and to those of
  {GALLERY - 1} others."""
_UNRECORDED = "* Recorded speech was not measured in this run: `--real-speech` was not given."


def markdown(run: Run, measured: Sequence[Measured]) -> str:
    """Return the report as Markdown.

    Args:
        run: Conditions of the evaluation.
        measured: Measurements of all videos.
    """
    rows = headline(measured)
    missed = sum(not row.passed for row in rows)
    return "\n".join(
        [
            "# What the pocket model does, measured",
            "",
            f"{len(rows) - missed} of {len(rows)} figures reach their targets, measured on {run.people} people "
            "that the training never saw.",
            "",
            "| figure | measured | target | | details |",
            "|---|---|---|---|---|",
            *(f"| {row.what} | {row.value_text} | {row.limit_text} | {row.verdict} | {row.note} |" for row in rows),
            "",
            "## Balance: one signal varies, the others are held",
            "",
            "Each cell says whether that measure is within its limit while only the signal on the left varies.",
            "",
            "| signal | mouth | nose | identity | what it changes |",
            "|---|---|---|---|---|",
            *(_balance_row(alone) for alone in balance(measured)),
            "",
            "## How",
            "",
            f"    {run.command}",
            "",
            *(f"* {fact}" for fact in run.facts()),
            *([] if any(m.case.scene == "recorded" for m in measured) else [_UNRECORDED]),
            HOW,
            "",
        ]
    )


def _balance_row(alone: SingleSignal) -> str:
    cells = (f"{f.what} {f.value_text} ({f.limit_text}): {f.verdict}" for f in (alone.mouth, alone.nose, alone.who))
    return f"| {alone.signal} alone | {' | '.join(cells)} | {alone.moves} |"


def as_json(run: Run, measured: Sequence[Measured]) -> dict[str, Any]:
    """Return the report and the figures of each video, for JSON.

    Args:
        run: Conditions of the evaluation.
        measured: Measurements of all videos.
    """
    return {
        "run": {**asdict(run), "options": dict(run.options)},
        "commit": commit(),
        "versions": tools(),
        "figures": [_figure(row) for row in headline(measured)],
        "balance": [
            {"signal": a.signal, "moves": a.moves, **{k: _figure(getattr(a, k)) for k in ("mouth", "nose", "who")}}
            for a in balance(measured)
        ],
        "videos": [_video(m) for m in measured],
    }


def _figure(row: Figure) -> dict[str, Any]:
    return {**asdict(row), "passed": row.passed}


def _video(m: Measured) -> dict[str, Any]:
    return {
        "scene": m.case.scene,
        "person": m.case.subject.seed,
        "frames": len(m.openings),
        "correlation": round(m.correlation, 4),
        "opening": [round(float(np.percentile(m.shares, q)), 4) for q in (5, 50, 95)],  # of its range
        "nose_error": [round(float(np.percentile(m.errors, q)), 5) for q in (50, 95)],  # of the width
        "nose_stray": [round(float(np.percentile(m.strays, q)), 5) for q in (50, 95)],
        "known": round(float(m.known.mean()), 4),
    }


def tools() -> dict[str, str]:
    """Return the versions of the libraries that affect the figures."""
    libraries = ("numpy", "onnxruntime", "opencv-python-headless")
    return {"vexpress_rt": __version__, "python": platform.python_version(), **{n: version(n) for n in libraries}}


def commit() -> str:
    """Return the commit of this checkout, and whether there are changes; "unknown" without git."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, timeout=30
        ).stdout.strip()

    try:
        changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return "unknown"
