"""Figures of an evaluation over all videos, and their targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.pocket.evaluate.cases import SCENES
from export.pocket.evaluate.live_speed import LiveSpeed
from export.pocket.evaluate.measuring import Measured, Values, correlation
from export.pocket.evaluate.pictures import FEATURES, NONE, Pictures
from export.pocket.faces import identity_distance

# Targets. A figure without one has no target.
HELD_SYNC, DRIVEN_SYNC, RECORDED_SYNC = 0.93, 0.91, 0.82
CLOSED, DRIVEN_CLOSED = 0.03, 0.1
NOSE, STILL, KNOWN = 0.006, 0.01, 0.98
PSNR, SSIM, LOOKS, SHARPNESS = 27.0, 0.93, 0.99, 0.85  # the first edition's PSNR was 23.0 dB
DEPTH_SYNC, DEPTH_NOSE = 0.9, 0.01
LIVE_SYNC_LOSS, LIVE_PSNR_LOSS = 0.01, 0.5
LIVE_RATE, LIVE_LATENCY = 75.0, 0.3

FULL, LIVE, SESSION = "full settings", "live settings", "live session"
SHARE, DECIBELS, LEVELS, SECONDS, RATE = "%", "dB", "levels", "s", "frames per second"  # units
_DIGITS = {"": 3, SHARE: 2, DECIBELS: 2, LEVELS: 2, SECONDS: 2, RATE: 1}


@dataclass(frozen=True)
class Figure:
    """A measured value and its target.

    Attributes:
        what: Name of the figure.
        value: Measured value; NaN if nothing could be measured.
        target: Smallest or largest value allowed; None for a figure without a target.
        at_least: Whether `target` is the smallest value.
        unit: Unit of value and target; shares of 1 have the unit SHARE, and are printed in per cent.
        note: Further values, in words.
    """

    what: str
    value: float
    target: float | None
    at_least: bool = True
    unit: str = ""
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value reaches the target, or there is none; False for NaN with a target."""
        if self.target is None:
            return True
        return bool(self.value >= self.target if self.at_least else self.value <= self.target)

    @property
    def verdict(self) -> str:
        """PASS or MISSED; empty without a target."""
        return "" if self.target is None else "PASS" if self.passed else "MISSED"

    @property
    def value_text(self) -> str:
        """The value with its unit."""
        return "not measured" if math.isnan(self.value) else self.text(self.value)

    @property
    def target_text(self) -> str:
        """The target with its unit; empty without one."""
        if self.target is None:
            return ""
        target = f"{100 * self.target:g}" if self.unit == SHARE else f"{self.target:g}"
        return f"at {'least' if self.at_least else 'most'} {_with_unit(target, self.unit)}"

    def text(self, value: float, sign: str = "") -> str:
        """Return a value of this figure's unit as text.

        Args:
            value: The value.
            sign: "+" to print the sign of positive values, as of a difference.
        """
        number = 100 * value if self.unit == SHARE else value
        return _with_unit(f"{number:{sign}.{_DIGITS[self.unit]}f}", self.unit)

    def as_json(self) -> dict[str, Any]:
        """Return the fields and `passed`; NaN is None."""
        value = None if math.isnan(self.value) else self.value
        return {**asdict(self), "value": value, "passed": self.passed}


def _with_unit(number: str, unit: str) -> str:
    return f"{number} {unit}" if unit else number


@dataclass(frozen=True)
class Results:
    """The measurements of the videos that were made with the same settings.

    Attributes:
        measured: Measurements of mouth, nose and identity.
        pictures: Comparisons with drawings, of the same videos.
        options: The settings, by name.
    """

    measured: Sequence[Measured]
    pictures: Sequence[Pictures]
    options: Mapping[str, Any]


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


def headline(results: Results) -> list[Figure]:
    """Compute the main figures of some settings; recorded speech and depth are left out without videos of them.

    Args:
        results: Measurements of all videos.
    """
    return [*signal_figures(results.measured), *picture_figures(results.pictures)]


def signal_figures(measured: Sequence[Measured]) -> list[Figure]:
    """Compute the figures of mouth, nose and identity.

    Args:
        measured: Measurements of all videos.
    """
    scene = {name: [m for m in measured if m.case.scene == name] for name in SCENES}
    every = [m for m in measured if m.case.scene not in ("recorded", "depth")]
    rows = [
        _sync(
            scene["voice"], HELD_SYNC, "lips, head held: correlation of the mouth's opening with the speech's openness"
        ),
        _sync(scene["photo"], DRIVEN_SYNC, "lips, head driven: the same"),
        _closed(
            scene["silence"], CLOSED, "silence: mouth's opening beyond closed, over its range; 95 % of frames within"
        ),
        _closed(scene["pose"], DRIVEN_CLOSED, "silence, head driven: the same"),
        _recorded(scene["recorded"]) if scene["recorded"] else None,
        _nose(
            scene["pose"] + scene["photo"],
            NOSE,
            "nose, head driven: distance from the given one, over the width; median",
        ),
        _still(
            scene["voice"] + scene["silence"],
            "nose, head held: distance from its median position, over the width; 95 % of frames within",
        ),
        _known(every, "identity: frames whose nearest of 20 people is the right one"),
    ]
    if depth := scene["depth"]:
        rows.append(_sync(depth, DEPTH_SYNC, "lips, head driven by depth alone: the same correlation"))
        rows.append(_nose(depth, DEPTH_NOSE, "nose, head driven by depth alone: the same distance, median"))
    return [row for row in rows if row is not None]


def picture_figures(pictures: Sequence[Pictures]) -> list[Figure]:
    """Compute the figures of the comparison with drawings.

    Args:
        pictures: Comparisons of all videos; those driven by depth have no part in the figures.
    """
    pictures = [p for p in pictures if p.case.signal != "depth"]
    driven, held = ([p for p in pictures if p.case.held == held] for held in (False, True))
    return [
        _mean(driven, "PSNR of driven frames against their drawings, mean", lambda p: p.psnr, PSNR, DECIBELS),
        _mean(driven, "SSIM of driven frames against their drawings, mean", lambda p: p.ssim, SSIM),
        *(_looks(pictures, name) for name in FEATURES),
        _mean(pictures, "silhouette of the hair: intersection over union, mean", lambda p: p.hair),
        _sharpness(pictures),
        *(
            replace(
                _mean(
                    some, f"flicker, head {how}: change of still regions from frame to frame, mean", lambda p: p.flicker
                ),
                unit=LEVELS,
                at_least=False,
            )
            for some, how in ((held, "held"), (driven, "driven"))
        ),
    ]


def live_figures(full: Results, live: Results) -> list[Figure]:
    """Compute what live settings lose against full settings.

    Args:
        full: Measurements at full settings.
        live: Measurements of the same videos at live settings.
    """
    targets = {"lips, head held": LIVE_SYNC_LOSS, "lips, head driven": LIVE_SYNC_LOSS, "PSNR": LIVE_PSNR_LOSS}
    rows = []
    for name, target in targets.items():
        before, after = (
            next(figure for figure in headline(results) if figure.what.startswith(name)) for results in (full, live)
        )
        note = f"{after.value_text} at live settings, {before.value_text} at full settings"
        what = f"loss at live settings: {name}"
        rows.append(Figure(what, before.value - after.value, target, False, after.unit, note))
    return rows


def speed_figures(speed: LiveSpeed) -> list[Figure]:
    """Return the figures of a live session on a clock.

    Args:
        speed: Measured by `benchmarks.live`.
    """
    at = f"{speed.machine}; {speed.settings}"
    return [
        Figure("live: frames per second, sustained", speed.rate, LIVE_RATE, True, RATE, at),
        Figure(
            f"live: from sound to frame at {speed.fps:g} frames per second, median", speed.latency, LIVE_LATENCY,
            False, SECONDS, at,
        ),
    ]  # fmt: skip


def balance(measured: Sequence[Measured]) -> list[SingleSignal]:
    """Compute the figures of the scenes in which one signal varies alone.

    Args:
        measured: Measurements of all videos.
    """
    voice, pose, photo = ([m for m in measured if m.case.scene == name] for name in ("voice", "pose", "photo"))
    swing = float(np.mean([np.subtract(*np.percentile(m.shares, [95, 5])) for m in voice]))
    rows = [
        SingleSignal(
            "voice", _sync(voice, HELD_SYNC, "correlation"), _still(voice, "strays"), _known(voice, "right"),
            f"the mouth, by {swing:.0%} of its range",
        ),
        SingleSignal(
            "pose", _closed(pose, DRIVEN_CLOSED, "opening"), _nose(pose, NOSE, "off"), _known(pose, "right"),
            _travel(pose),
        ),
        SingleSignal(
            "photo", _sync(photo, DRIVEN_SYNC, "correlation"), _nose(photo, NOSE, "off"), _known(photo, "right"),
            _apart(photo),
        ),
    ]  # fmt: skip
    if depth := [m for m in measured if m.case.scene == "depth"]:
        signal = SingleSignal(
            "depth", _sync(depth, DEPTH_SYNC, "correlation"), _nose(depth, DEPTH_NOSE, "off"), _known(depth, "right"),
            f"{_travel(depth)}, while the mouth follows the voice",
        )  # fmt: skip
        rows.append(signal)
    return rows


def _sync(measured: Sequence[Measured], target: float, what: str) -> Figure:
    values = [m.correlation for m in measured]
    worst = int(np.argmin(values))
    note = f"median of {len(values)} people; lowest {values[worst]:.3f}, of person {measured[worst].case.subject.seed}"
    return Figure(what, float(np.median(values)), target, note=note)


def _closed(measured: Sequence[Measured], target: float, what: str) -> Figure:
    shares = np.concatenate([m.shares for m in measured])
    note = f"median {np.median(shares):.1%}, largest {shares.max():.1%}"
    return Figure(what, float(np.percentile(shares, 95)), target, False, SHARE, note)


def _recorded(measured: Sequence[Measured]) -> Figure:
    values = [m.correlation for m in measured]
    # The openness in the training data is an upper bound.
    best = [correlation(np.array([pose.mouth for pose in m.case.poses]), m.case.followed) for m in measured]
    recordings = len({m.case.samples.tobytes() for m in measured})
    note = f"median of {len(values)} videos, {recordings} recordings; the openness itself: {np.median(best):.3f}"
    what = "recorded speech: correlation of the mouth's opening with the loudness"
    return Figure(what, float(np.median(values)), RECORDED_SYNC, note=note)


def _nose(measured: Sequence[Measured], target: float, what: str) -> Figure:
    errors = np.concatenate([m.errors for m in measured])
    note = f"95 % of frames within {np.percentile(errors, 95):.2%}"
    return Figure(what, float(np.median(errors)), target, False, SHARE, note)


def _still(measured: Sequence[Measured], what: str) -> Figure:
    strays = np.concatenate([m.strays for m in measured])
    note = f"median {np.median(strays):.2%}, largest {strays.max():.2%}"
    return Figure(what, float(np.percentile(strays, 95)), STILL, False, SHARE, note)


def _known(measured: Sequence[Measured], what: str) -> Figure:
    wrong = sorted({m.case.subject.seed for m in measured if not m.known.all()})
    frames = sum(len(m.known) for m in measured)
    note = f"{frames} frames; with errors: {', '.join(map(str, wrong)) or 'nobody'}"
    return Figure(what, float(np.concatenate([m.known for m in measured]).mean()), KNOWN, True, SHARE, note)


def _mean(
    pictures: Sequence[Pictures], what: str, values: Callable[[Pictures], Values], target: float | None = None,
    unit: str = "",
) -> Figure:  # fmt: skip
    """Return the mean over the frames that have a value, and the lowest mean of a person."""
    of_people = {seed: found for seed in _seeds(pictures) if len(found := _of_person(pictures, seed, values))}
    if not of_people:
        return Figure(what, float("nan"), target, unit=unit, note="in no frame")
    every = np.concatenate(list(of_people.values()))
    figure = Figure(what, float(every.mean()), target, unit=unit)
    seed, lowest = min(((seed, float(found.mean())) for seed, found in of_people.items()), key=lambda pair: pair[1])
    return replace(figure, note=f"{len(every)} frames; lowest mean {figure.text(lowest)}, of person {seed}")


def _of_person(pictures: Sequence[Pictures], seed: int, values: Callable[[Pictures], Values]) -> Values:
    found = np.concatenate([values(p) for p in pictures if p.case.subject.seed == seed])
    return found[~np.isnan(found)]


def _seeds(pictures: Sequence[Pictures]) -> list[int]:
    return sorted({p.case.subject.seed for p in pictures})


def _sharpness(pictures: Sequence[Pictures]) -> Figure:
    values = np.concatenate([p.sharpness for p in pictures])
    low, high = np.percentile(values, [5, 95])
    note = f"{len(values)} frames; 90 % of them {low:.2f} to {high:.2f}"
    return Figure(
        "sharpness: gradient energy over that of the drawings, median", float(np.median(values)), SHARPNESS, note=note
    )


def _looks(pictures: Sequence[Pictures], name: str) -> Figure:
    """Return the share of frames in which a feature is as in the photo, of people with it and without it."""
    groups: dict[bool, list[Pictures]] = {True: [], False: []}
    for p in pictures:
        groups[getattr(p.case.person, name) != NONE].append(p)
    notes = []
    for has, group in groups.items():
        found = [p.looks[name].mean() for p in group if len(p.looks[name])]
        people = len(_seeds(group))
        judged = f"{np.mean(found):.1%} of frames" if found else "in no frame"
        notes.append(f"{people} people with {name}: {judged}" if has else f"{people} without: {judged}")
    frames = np.concatenate([p.looks[name] for p in pictures])
    value = float(frames.mean()) if len(frames) else float("nan")
    return Figure(
        f"{name} as in the photo: frames", value, LOOKS, True, SHARE, f"{len(frames)} frames; {'; '.join(notes)}"
    )


def _travel(measured: Sequence[Measured]) -> str:
    """Describe how far noses move, and how far from those of the photos."""
    travel = np.mean([_span(m.noses) / m.width for m in measured])
    away = np.mean([_distance(m.noses, m.case.subject.rest.keypoints[2]) / m.width for m in measured])
    return f"the nose, over {travel:.1%} of the width, and {away:.1%} away from the photo's"


def _distance(places: Values, other: NDArray[np.float32]) -> float:
    """Return the mean distance of K positions (K, 2) from another (2,)."""
    return float(np.linalg.norm(places - other, axis=1).mean())


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
