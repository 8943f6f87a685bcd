"""Whom the small model is shown: people whom its training never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.pocket.architecture import SIZE
from export.pocket.faces import Drawing, Person, Pose, draw_face, identity_patch, mouth_opening, random_person

FIRST = 1_000_000  # seed of the first; the training's are 0 to 1999
GALLERY = 20  # people among whom somebody is to be recognised
PHOTO = 512  # pixels, height and width: as a user's photo, it is scaled down by the generator
OVERSAMPLING = 2


@dataclass(frozen=True)
class Subject:
    """Somebody, and what is measured in drawings of them.

    rest: looking ahead with a closed mouth, of the model's size.  patch: `identity_patch` of it.
    closed, opened: `mouth_opening` of a closed and of a wide open mouth, in eye distances.
    """

    seed: int
    person: Person
    rest: Drawing
    patch: NDArray[np.float32]
    closed: float
    opened: float

    def photo(self) -> Drawing:
        """What the generator is given."""
        return draw_face(self.person, height=PHOTO, width=PHOTO, oversampling=OVERSAMPLING)

    def draw(self, pose: Pose) -> Drawing:
        """A picture of the model's size."""
        return draw_face(self.person, pose, height=SIZE, width=SIZE, oversampling=OVERSAMPLING)


def make_subject(seed: int) -> Subject:
    """The person of a seed."""
    person = random_person(seed)
    rest, wide = (
        draw_face(person, Pose(mouth=mouth), height=SIZE, width=SIZE, oversampling=OVERSAMPLING) for mouth in (0, 1)
    )
    closed, opened = (mouth_opening(drawing.image, drawing.keypoints) for drawing in (rest, wide))
    return Subject(seed, person, rest, identity_patch(rest.image, rest.keypoints), closed, opened)


def gallery(subjects: list[Subject], number: int) -> NDArray[np.float32]:
    """Patches (G, h, w, 3) of person `number`, who comes first, and of those who follow, GALLERY at most."""
    ring = [subjects[(number + i) % len(subjects)] for i in range(min(GALLERY, len(subjects)))]
    return np.stack([subject.patch for subject in ring])
