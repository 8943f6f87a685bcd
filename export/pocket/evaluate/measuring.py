"""Measurements of a video's frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from export.pocket.evaluate.cases import Case
from export.pocket.evaluate.video_sources import Frames
from export.pocket.faces import Drawing, identity_distance, identity_patch, mouth_opening, nose_place

EVERY = 3  # every third frame of a moving head is compared with a drawing of its pose

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Measurements of L frames, of which K are compared with drawings.

    Attributes:
        case: The video.
        openings: `mouth_opening` in eye distances, (L,).
        compared: Indices of the compared frames, (K,).
        shares: Opening of the mouth minus that of the closed mouth, over its range, (K,).
        noses: Positions in pixels, (K, 2).
        known: Whether this person is the nearest of the gallery, (L,) bool.
        patch: Mean `identity_patch` of the frames.
        width: Width of the frames in pixels.
    """

    case: Case
    openings: Values
    compared: NDArray[np.int64]
    shares: Values
    noses: Values
    known: NDArray[np.bool_]
    patch: NDArray[np.float32]
    width: int

    @property
    def correlation(self) -> float:
        """Correlation of the mouth's opening with the curve it should follow; 0 if one of them is constant."""
        return correlation(self.openings, self.case.followed)

    @property
    def errors(self) -> Values:
        """Distances from the given to the measured nose over the width, (K,)."""
        given = self.case.points[self.compared, 2]
        return np.asarray(np.linalg.norm(self.noses - given, axis=1) / self.width)

    @property
    def strays(self) -> Values:
        """Distances from the nose's median position to its position over the width, (K,)."""
        return np.asarray(np.linalg.norm(self.noses - np.median(self.noses, axis=0), axis=1) / self.width)


def measure(case: Case, frames: Frames, gallery: NDArray[np.float32]) -> Measured:
    """Measure a video.

    Args:
        case: The video.
        frames: (L, H, W, 3) uint8 RGB.
        gallery: Identity patches (G, h, w, 3), of which the first is this person's.
    """
    subject = case.subject
    pairs = list(zip(frames, case.points, strict=True))
    openings = np.array([mouth_opening(frame, points) for frame, points in pairs])
    patches = np.stack([identity_patch(frame, points) for frame, points in pairs])
    compared = np.arange(0, len(frames), 1 if case.held else EVERY)
    examples, closed = _closed(case, compared)
    return Measured(
        case=case,
        openings=openings,
        compared=compared,
        shares=(openings[compared] - closed) / (subject.opened - subject.closed),
        noses=np.stack([nose_place(frames[i], example) for i, example in zip(compared, examples, strict=True)]),
        known=identity_distance(patches[:, None], gallery[None]).argmin(axis=1) == 0,
        patch=patches.mean(axis=0),
        width=frames.shape[2],
    )


def _closed(case: Case, compared: NDArray[np.int64]) -> tuple[list[Drawing], Values]:
    """Draw the person with a closed mouth in the poses of some frames, and measure the openings of these mouths."""
    if case.held:
        return [case.subject.rest] * len(compared), np.full(len(compared), case.subject.closed)
    rest = {"mouth": 0.0, "width": 0.0, "rounding": 0.0, "blink": 0.0}
    drawings = [case.subject.draw(replace(case.poses[frame], **rest)) for frame in compared]
    pairs = zip(drawings, case.points[compared], strict=True)
    return drawings, np.array([mouth_opening(drawing.image, points) for drawing, points in pairs])


def correlation(first: Values, second: Values) -> float:
    """Return Pearson's correlation, or 0 if a curve is constant.

    Args:
        first: (n,).
        second: (n,).
    """
    if min(np.ptp(first), np.ptp(second)) < 1e-9:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
