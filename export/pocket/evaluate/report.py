"""The report of an evaluation, as Markdown and as JSON."""

from __future__ import annotations

import math
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
from export.pocket.evaluate.figures import (
    FULL,
    LIVE,
    SESSION,
    Figure,
    Results,
    SingleSignal,
    balance,
    headline,
    live_figures,
    speed_figures,
)
from export.pocket.evaluate.live_speed import LiveSpeed
from export.pocket.evaluate.measuring import EVERY, Measured, Values
from export.pocket.evaluate.pictures import FEATURES, PRESENT, Pictures
from export.pocket.evaluate.subjects import FIRST, GALLERY
from vexpress_rt import __version__
from vexpress_rt.utils.cpu_model import cpu_model


@dataclass(frozen=True)
class Run:
    """The conditions of an evaluation.

    Attributes:
        command: Command line that repeats it.
        source: Description of the source of the videos.
        people: Number of people in each scene.
        seconds: Duration of each video.
        minutes: Duration of the evaluation.
    """

    command: str
    source: str
    people: int
    seconds: float
    minutes: float

    def facts(self) -> list[str]:
        """Return lines about the conditions of the figures."""
        last = FIRST + self.people - 1
        versions = ", ".join(f"{name} {number}" for name, number in tools().items())
        return [
            f"Videos: {self.source}; {self.seconds:g} s of each scene and person, {FPS} frames per second.",
            f"People, their own speech, motion and noise: seeds {FIRST} to {last}; speech, motion and noise "
            f"that all people share: seed {SHARED}. Training uses seeds far below.",
            f"Commit {commit()}; {versions}; {os.cpu_count()} cores of {cpu_model().describe()}, "
            f"{self.minutes:.1f} minutes in all.",
        ]


_ABSENT = ", ".join(
    f"at most {feature.most:g} for the {feature.kinds} most common kinds of {name}"
    for name, feature in FEATURES.items()
)
HOW = f"""\
* Scenes, one video of each person: *voice* (own speech, head held with `fix_face`), *silence* (nothing or a steady
  noise, head held), *pose* (no sound, driven by own keypoints), *photo* (speech, keypoints and noise that are the same
  for everybody). Recorded speech: the first {RECORDED_SECONDS:g} s, the first {RECORDED_PEOPLE} people, head held.
  *depth*, of bundles with a guider of depth: own speech, head driven by the drawn depth of the person, no keypoints.
* The photo is the person drawn looking ahead with a closed mouth; its keypoints are given, not detected.
* Mouth: `export.pocket.faces.mouth_opening` of each frame at the keypoints that drive it; Pearson's correlation over a
  video's frames with `export.pocket.lips.mouth_track`'s openness, or with the A-weighted loudness of recorded speech.
  Beyond closed: the opening minus that of a drawing of the same person and pose with a closed mouth, as a share of
  the range up to a wide open mouth.
* Nose: `export.pocket.faces.nose_place`, by comparison with a drawing of that person in the expected pose; of
  moving heads in every {EVERY}rd frame.
* Identity: `identity_patch` of each frame of the scenes *voice*, *silence*, *pose* and *photo*, `identity_distance`
  to the photo and to those of {GALLERY - 1} others.
* Pictures: every {EVERY}rd frame is compared with the drawing of that person in that pose with that mouth. The
  eyes do not blink in the drawings, because neither keypoints nor speech determine blinks; they are as far apart as
  in the given keypoints. PSNR over red, green and blue; SSIM of the luma with the window and constants of Wang et al.
  (2004). Both are of the scenes *pose* and *photo*; the other figures are of all scenes but *depth*.
* {", ".join(FEATURES).capitalize()}: the strength of the feature in the frame is measured between the drawing of the
  person and one that differs in this feature alone, by projection of the details of 1 to 4 pixels. Present: at least
  {PRESENT:g} of the drawn strength. Absent: {_ABSENT}.
* Hair: pixels that are nearer to the colour of the hair than to the drawing of the person without hair.
* Sharpness: mean square of the luma's gradient. Flicker: mean change from frame to frame, in levels of 8 bits, where
  the drawings do not change at all, away from what moves."""
_WITH_SPEECH = " With depth the speech varies as well, because depth must not harm the lips."
_NO_DEPTH = "* Depth: the bundle has no guider of depth, so that no video is driven by depth."
_UNRECORDED = "* Recorded speech was not measured in this run: `--real-speech` was not given."
_UNTIMED = "* The speed of live mode is not in this report: `--live-speed` was not given."


def markdown(run: Run, results: Mapping[str, Results], speed: LiveSpeed | None = None) -> str:
    """Return the report as Markdown.

    Args:
        run: Conditions of the evaluation.
        results: Measurements of all videos by the names of their settings, the full settings first.
        speed: The speed of live mode, if it was measured.
    """
    rows, first = figures(results, speed), next(iter(results.values()))
    targets = [row for row in rows if row.target is not None]
    missed = sum(not row.passed for row in targets)
    return "\n".join(
        [
            "# The small model, measured",
            "",
            f"{len(targets) - missed} of {len(targets)} targets are reached, measured on {run.people} people "
            "outside the training data.",
            "",
            "| figure | measured | target | | details |",
            "|---|---|---|---|---|",
            *(f"| {row.what} | {row.value_text} | {row.target_text} | {row.verdict} | {row.note} |" for row in rows),
            "",
            "## Balance: one signal varies, the others are held",
            "",
            "Each cell says whether that measure reaches its target while only the signal on the left varies."
            + (_WITH_SPEECH if any(m.case.scene == "depth" for m in first.measured) else ""),
            "",
            "| signal | mouth | nose | identity | what it changes |",
            "|---|---|---|---|---|",
            *(_balance_row(alone) for alone in balance(first.measured)),
            "",
            *_settings(results),
            "## How",
            "",
            f"    {run.command}",
            "",
            *(f"* {fact}" for fact in run.facts()),
            *([] if any(m.case.scene == "recorded" for m in first.measured) else [_UNRECORDED]),
            *([] if any(m.case.scene == "depth" for m in first.measured) else [_NO_DEPTH]),
            *([_UNTIMED] if speed is None else []),
            HOW,
            "",
        ]
    )


def figures(results: Mapping[str, Results], speed: LiveSpeed | None) -> list[Figure]:
    """Return all figures: those at the first settings, those of live settings, and those of the speed of live mode.

    Args:
        results: Measurements of all videos by the names of their settings, the full settings first.
        speed: The speed of live mode, if it was measured.
    """
    first = next(iter(results.values()))
    return [
        *headline(first),
        *(live_figures(results[FULL], results[LIVE]) if FULL in results and LIVE in results else []),
        *(speed_figures(speed) if speed is not None else []),
    ]


_MEANING = {
    FULL: "`Generator.generate`",
    LIVE: "`Generator.generate`",
    SESSION: "`Generator.live`, the speech in chunks; a session sees less of the speech after each frame",
}


def _settings(results: Mapping[str, Results]) -> list[str]:
    """Return the section that compares settings; without several, the settings alone."""
    lines = [
        f"* {name.capitalize()}: {_MEANING[name]}, {_text(each.options)}."
        for name, each in results.items()
        if each.options
    ]
    if len(results) > 1:
        names = list(results)
        table = zip(*(headline(each) for each in results.values()), strict=True)
        lines = [
            f"| figure | {' | '.join(names)} |",
            f"|---|{'---|' * len(names)}",
            *(f"| {row[0].what} | {' | '.join(_compared(row))} |" for row in table),
            "",
            f"In brackets: the difference to {names[0]}.",
            "",
            *lines,
        ]
    return ["## Settings", "", *lines, ""] if lines else []


def _compared(row: Sequence[Figure]) -> list[str]:
    first = row[0]
    others = (
        f"{figure.value_text} ({figure.text(figure.value - first.value, '+')})" if _known(first, figure)
        else figure.value_text
        for figure in row[1:]
    )  # fmt: skip
    return [first.value_text, *others]


def _known(*figures: Figure) -> bool:
    return all(math.isfinite(figure.value) for figure in figures)


def _text(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _balance_row(alone: SingleSignal) -> str:
    cells = (f"{f.what} {f.value_text} ({f.target_text}): {f.verdict}" for f in (alone.mouth, alone.nose, alone.who))
    return f"| {alone.signal} alone | {' | '.join(cells)} | {alone.moves} |"


def as_json(run: Run, results: Mapping[str, Results], speed: LiveSpeed | None = None) -> dict[str, Any]:
    """Return the report and the figures of each video, for JSON.

    Args:
        run: Conditions of the evaluation.
        results: Measurements of all videos by the names of their settings, the full settings first.
        speed: The speed of live mode, if it was measured.
    """
    return {
        "run": asdict(run),
        "commit": commit(),
        "versions": tools(),
        "figures": [row.as_json() for row in figures(results, speed)],
        "balance": [
            {"signal": a.signal, "moves": a.moves, **{k: getattr(a, k).as_json() for k in ("mouth", "nose", "who")}}
            for a in balance(next(iter(results.values())).measured)
        ],
        "settings": {
            name: {
                "options": dict(each.options),
                "figures": [row.as_json() for row in headline(each)],
                "videos": [_video(*pair) for pair in zip(each.measured, each.pictures, strict=True)],
            }
            for name, each in results.items()
        },
    }


def _video(m: Measured, p: Pictures) -> dict[str, Any]:
    return {
        "scene": m.case.scene,
        "person": m.case.subject.seed,
        "frames": len(m.openings),
        "correlation": round(m.correlation, 4),
        "opening": [round(float(np.percentile(m.shares, q)), 4) for q in (5, 50, 95)],  # of its range
        "nose_error": [round(float(np.percentile(m.errors, q)), 5) for q in (50, 95)],  # of the width
        "nose_stray": [round(float(np.percentile(m.strays, q)), 5) for q in (50, 95)],
        "known": round(float(m.known.mean()), 4),
        "psnr": _mean(p.psnr),
        "ssim": _mean(p.ssim),
        "sharpness": _mean(p.sharpness),
        "hair": _mean(p.hair),
        "flicker": _mean(p.flicker),
        "looks": {name: _mean(found.astype(float)) for name, found in p.looks.items()},
    }


def _mean(values: Values) -> float | None:
    """Return the mean of the values that are not NaN; None without any."""
    known = values[~np.isnan(values)]
    return round(float(known.mean()), 4) if len(known) else None


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
