"""What a video shows, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from export.pocket.evaluate.cases import Case
from export.pocket.evaluate.makers import Frames
from export.pocket.faces import Drawing, identity_distance, identity_patch, mouth_opening, nose_place

EVERY = 3  # frames of a moving head from one that is compared with a drawing of its own pose to the next

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """L frames, of which K are compared with drawings.

    openings: (L,), `mouth_opening`, eye distances.  looked: (K,), the frames compared.
    shares: (K,), how far the mouth is open beyond what the same mouth measures closed, of its whole range.
    noses: (K, 2), pixels.  known: (L,) bool, whether this person is the nearest of the gallery.
    patch: the mean of the frames' `identity_patch`.  width: of the frames, pixels.
    """

    case: Case
    openings: Values
    looked: NDArray[np.int64]
    shares: Values
    noses: Values
    known: NDArray[np.bool_]
    patch: NDArray[np.float32]
    width: int

    @property
    def correlation(self) -> float:
        """Of the mouth's opening with what it should follow; 0 where one of them never changes."""
        return correlation(self.openings, self.case.followed)

    @property
    def errors(self) -> Values:
        """(K,): from the given nose to the one that is seen, as shares of the width."""
        given = self.case.points[self.looked, 2]
        return np.asarray(np.linalg.norm(self.noses - given, axis=1) / self.width)

    @property
    def strays(self) -> Values:
        """(K,): from the nose's middle place in this video to where it is, as shares of the width."""
        return np.asarray(np.linalg.norm(self.noses - np.median(self.noses, axis=0), axis=1) / self.width)


def measure(case: Case, frames: Frames, gallery: NDArray[np.float32]) -> Measured:
    """gallery: patches (G, h, w, 3), of which the first is this person's."""
    subject = case.subject
    pairs = list(zip(frames, case.points, strict=True))
    openings = np.array([mouth_opening(frame, points) for frame, points in pairs])
    patches = np.stack([identity_patch(frame, points) for frame, points in pairs])
    looked = np.arange(0, len(frames), 1 if case.held else EVERY)
    examples, closed = _closed(case, looked)
    return Measured(
        case=case,
        openings=openings,
        looked=looked,
        shares=(openings[looked] - closed) / (subject.opened - subject.closed),
        noses=np.stack([nose_place(frames[i], example) for i, example in zip(looked, examples, strict=True)]),
        known=identity_distance(patches[:, None], gallery[None]).argmin(axis=1) == 0,
        patch=patches.mean(axis=0),
        width=frames.shape[2],
    )


def _closed(case: Case, looked: NDArray[np.int64]) -> tuple[list[Drawing], Values]:
    """The person in the poses of some frames, mouth and eyes at rest, and what the mouth measures there."""
    if case.held:
        return [case.subject.rest] * len(looked), np.full(len(looked), case.subject.closed)
    rest = {"mouth": 0.0, "width": 0.0, "rounding": 0.0, "blink": 0.0}
    drawings = [case.subject.draw(replace(case.poses[frame], **rest)) for frame in looked]
    pairs = zip(drawings, case.points[looked], strict=True)
    return drawings, np.array([mouth_opening(drawing.image, points) for drawing, points in pairs])


def correlation(first: Values, second: Values) -> float:
    """Pearson's, or 0 where one of the two never changes."""
    if min(np.ptp(first), np.ptp(second)) < 1e-9:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
