"""Figures of an evaluation over all videos, and their limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.pocket.evaluate.cases import SCENES
from export.pocket.evaluate.measuring import Measured, Values, correlation
from export.pocket.faces import identity_distance

SYNC, RECORDED_SYNC, CLOSED, NOSE, STILL, KNOWN = 0.85, 0.6, 0.1, 0.015, 0.01, 0.98  # limits


@dataclass(frozen=True)
class Figure:
    """A measured value and its limit.

    Attributes:
        what: Name of the figure.
        value: Measured value.
        limit: Smallest or largest value allowed.
        at_least: Whether `limit` is the smallest value.
        share: Whether value and limit are shares of 1, which are printed in per cent.
        note: Further values, in words.
    """

    what: str
    value: float
    limit: float
    at_least: bool
    share: bool
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit; False for NaN."""
        return bool(self.value >= self.limit if self.at_least else self.value <= self.limit)

    @property
    def verdict(self) -> str:
        """PASS or MISSED."""
        return "PASS" if self.passed else "MISSED"

    @property
    def value_text(self) -> str:
        """The value with its unit."""
        return f"{100 * self.value:.2f} %" if self.share else f"{self.value:.3f}"

    @property
    def limit_text(self) -> str:
        """The limit with its unit."""
        limit = f"{100 * self.limit:g} %" if self.share else f"{self.limit:g}"
        return f"at {'least' if self.at_least else 'most'} {limit}"


@dataclass(frozen=True)
class SingleSignal:
    """The figures of a scene in which only one signal varies.

    Attributes:
        signal: Name of the signal.
        mouth: Figure of the mouth.
        nose: Figure of the nose.
        who: Figure of the identity.
        moves: Description of what the signal changes.
    """

    signal: str
    mouth: Figure
    nose: Figure
    who: Figure
    moves: str


def headline(measured: Sequence[Measured]) -> list[Figure]:
    """Compute the main figures; recorded speech is left out if none was given.

    Args:
        measured: Measurements of all videos.
    """
    scene = {name: [m for m in measured if m.case.scene == name] for name in SCENES}
    every = [m for name in SCENES[:4] for m in scene[name]]
    rows = [
        _sync(scene["voice"], "lip sync: correlation of the mouth's opening with the speech's openness"),
        _sync(scene["photo"], "lip sync while the head moves"),
        _closed(scene["silence"], "silence: mouth's opening beyond closed, over its range; 95 % of frames within"),
        _closed(scene["pose"], "silence while the head moves: the same"),
        _recorded(scene["recorded"]) if scene["recorded"] else None,
        _nose(
            scene["pose"] + scene["photo"],
            "driven: distance of the nose from the given one, over the width; median",
        ),
        _still(
            scene["voice"] + scene["silence"],
            "held: nose from its median position, over the width; 95 % of frames within",
        ),
        _known(every, "identity: frames whose nearest of 20 people is the right one"),
    ]
    return [row for row in rows if row is not None]


def balance(measured: Sequence[Measured]) -> list[SingleSignal]:
    """Compute the figures of the scenes in which one signal varies alone.

    Args:
        measured: Measurements of all videos.
    """
    voice, pose, photo = ([m for m in measured if m.case.scene == name] for name in ("voice", "pose", "photo"))
    swing = float(np.mean([np.subtract(*np.percentile(m.shares, [95, 5])) for m in voice]))
    travel = float(np.mean([_span(m.noses) / m.width for m in pose]))
    away = float(np.mean([np.linalg.norm(m.noses - m.case.subject.rest.keypoints[2], axis=1) for m in pose]))
    return [
        SingleSignal(
            "voice", _sync(voice, "correlation"), _still(voice, "strays"), _known(voice, "right"),
            f"the mouth, by {swing:.0%} of its range",
        ),
        SingleSignal(
            "pose", _closed(pose, "opening"), _nose(pose, "off"), _known(pose, "right"),
            f"the nose, over {travel:.1%} of the width, and {away / pose[0].width:.1%} away from the photo's",
        ),
        SingleSignal("photo", _sync(photo, "correlation"), _nose(photo, "off"), _known(photo, "right"), _apart(photo)),
    ]  # fmt: skip


def _sync(measured: Sequence[Measured], what: str) -> Figure:
    values = [m.correlation for m in measured]
    worst = int(np.argmin(values))
    note = f"median of {len(values)} people; lowest {values[worst]:.3f}, of person {measured[worst].case.subject.seed}"
    return Figure(what, float(np.median(values)), SYNC, True, False, note)


def _closed(measured: Sequence[Measured], what: str) -> Figure:
    shares = np.concatenate([m.shares for m in measured])
    note = f"median {np.median(shares):.1%}, largest {shares.max():.1%}"
    return Figure(what, float(np.percentile(shares, 95)), CLOSED, False, True, note)


def _recorded(measured: Sequence[Measured]) -> Figure:
    values = [m.correlation for m in measured]
    # The openness in the training data is an upper bound.
    best = [correlation(np.array([pose.mouth for pose in m.case.poses]), m.case.followed) for m in measured]
    recordings = len({m.case.samples.tobytes() for m in measured})
    note = f"median of {len(values)} videos, {recordings} recordings; the openness itself: {np.median(best):.3f}"
    what = "recorded speech: correlation of the mouth's opening with the loudness"
    return Figure(what, float(np.median(values)), RECORDED_SYNC, True, False, note)


def _nose(measured: Sequence[Measured], what: str) -> Figure:
    errors = np.concatenate([m.errors for m in measured])
    note = f"95 % of frames within {np.percentile(errors, 95):.2%}"
    return Figure(what, float(np.median(errors)), NOSE, False, True, note)


def _still(measured: Sequence[Measured], what: str) -> Figure:
    strays = np.concatenate([m.strays for m in measured])
    note = f"median {np.median(strays):.2%}, largest {strays.max():.2%}"
    return Figure(what, float(np.percentile(strays, 95)), STILL, False, True, note)


def _known(measured: Sequence[Measured], what: str) -> Figure:
    wrong = sorted({m.case.subject.seed for m in measured if not m.known.all()})
    frames = sum(len(m.known) for m in measured)
    note = f"{frames} frames; with errors: {', '.join(map(str, wrong)) or 'nobody'}"
    return Figure(what, float(np.concatenate([m.known for m in measured]).mean()), KNOWN, True, True, note)


def _span(places: Values) -> float:
    """Return the largest distance between two of K positions (K, 2)."""
    return float(np.linalg.norm(places[:, None] - places[None], axis=-1).max())


def _apart(photo: Sequence[Measured]) -> str:
    """Describe the distances between people, in the videos and in the photos."""
    if len(photo) < 2:
        return "one person alone: nobody to compare with"
    pairs = np.triu_indices(len(photo), 1)
    seen, drawn = (
        float(np.mean(identity_distance(patches[pairs[0]], patches[pairs[1]])))
        for patches in (np.stack([m.patch for m in photo]), np.stack([m.case.subject.patch for m in photo]))
    )
    return f"the identity: people differ by {seen:.3f} (their photos by {drawn:.3f})"
