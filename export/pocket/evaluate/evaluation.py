"""Make and measure the videos of an evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from export.pocket.evaluate.cases import Case
from export.pocket.evaluate.measuring import Measured, measure
from export.pocket.evaluate.sheet import PEOPLE, SCENES, Shot
from export.pocket.evaluate.subjects import Subject, gallery
from export.pocket.evaluate.video_sources import VideoSource


def evaluate(
    source: VideoSource,
    subjects: list[Subject],
    cases: Sequence[Case],
    report: Callable[[str], object],
    shots: list[Shot],
) -> list[Measured]:
    """Make and measure all videos.

    Args:
        source: Makes the frames.
        subjects: The people of the cases, and others for the identity gallery.
        cases: The videos to make.
        report: Called with a line of progress.
        shots: The videos for a sheet are appended.

    Returns:
        The measurements, in the order of the cases.
    """
    place, done = {subject.seed: i for i, subject in enumerate(subjects)}, []
    for number, case in enumerate(cases, start=1):
        start = time.monotonic()
        frames = source(case)
        took = time.monotonic() - start
        found = measure(case, frames, gallery(subjects, place[case.subject.seed]))
        done.append(found)
        if place[case.subject.seed] < PEOPLE and case.scene in SCENES:
            shots.append((found, frames))
        report(
            f"{number}/{len(cases)} person {case.subject.seed}, {case.scene}: {_summary(found)}; made in {took:.1f} s"
        )
    return done


def _summary(found: Measured) -> str:
    mouth = f"mouth open by {max(found.shares):.1%} at most"
    if found.case.followed.any():
        mouth = f"mouth follows by {found.correlation:.3f}"
    nose = f"nose strays by {max(found.strays):.2%}" if found.case.held else f"nose off by {max(found.errors):.2%}"
    return f"{mouth}, {nose} at most, known in {found.known.mean():.0%}"
