"""Make and measure the videos of an evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from export.pocket.evaluate.cases import Case
from export.pocket.evaluate.figures import Results
from export.pocket.evaluate.measuring import Measured, measure
from export.pocket.evaluate.pictures import Pictures, measure_pictures
from export.pocket.evaluate.sheet import PEOPLE, SCENES, Shot
from export.pocket.evaluate.subjects import Subject, gallery
from export.pocket.evaluate.video_sources import VideoSource


@dataclass(frozen=True)
class Source:
    """A source of videos to evaluate.

    Attributes:
        make: Makes the frames of a video.
        options: The settings of the videos, by name.
    """

    make: VideoSource
    options: Mapping[str, Any]


def evaluate(
    sources: Mapping[str, Source],
    subjects: list[Subject],
    cases: Sequence[Case],
    report: Callable[[str], object],
    shots: list[Shot],
) -> dict[str, Results]:
    """Make and measure each video by all sources.

    Args:
        sources: The sources by the names of their settings.
        subjects: The people of the cases, and others for the identity gallery.
        cases: The videos to make.
        report: Called with a line of progress.
        shots: The videos of the first source for a sheet are appended.

    Returns:
        The measurements by the names of the settings, in the order of the cases.
    """
    place = {subject.seed: i for i, subject in enumerate(subjects)}
    measured: dict[str, list[Measured]] = {name: [] for name in sources}
    pictures: dict[str, list[Pictures]] = {name: [] for name in sources}
    for number, case in enumerate(cases, start=1):
        patches = gallery(subjects, place[case.subject.seed])
        for name, each in sources.items():
            start = time.monotonic()
            frames = each.make(case)
            took = time.monotonic() - start
            found, compared = measure(case, frames, patches), measure_pictures(case, frames)
            measured[name].append(found)
            pictures[name].append(compared)
            if name == next(iter(sources)) and place[case.subject.seed] < PEOPLE and case.scene in SCENES:
                shots.append((found, frames))
            report(
                f"{number}/{len(cases)} person {case.subject.seed}, {case.scene}, {name}: {_summary(found, compared)}; "
                f"made in {took:.1f} s"
            )
    return {name: Results(measured[name], pictures[name], each.options) for name, each in sources.items()}


def _summary(found: Measured, compared: Pictures) -> str:
    mouth = f"mouth open by {max(found.shares):.1%} at most"
    if found.case.followed.any():
        mouth = f"mouth follows by {found.correlation:.3f}"
    nose = f"nose strays by {max(found.strays):.2%}" if found.case.held else f"nose off by {max(found.errors):.2%}"
    return f"{mouth}, {nose} at most, known in {found.known.mean():.0%}, {compared.psnr.mean():.1f} dB to its drawings"
