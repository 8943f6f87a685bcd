"""The people of an evaluation. None of them is in the training data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from export.pocket.architecture import SIZE
from export.pocket.faces import Drawing, Person, Pose, draw_face, identity_patch, mouth_opening, random_person

FIRST = 1_000_000  # seed of the first person; the training data has 0 to 1999
GALLERY = 20  # people in the gallery in which a person is to be recognized
PHOTO = 512  # pixels, height and width; the generator scales it down, like a user's photo
OVERSAMPLING = 2


@lru_cache(maxsize=512)  # 25 MB: the drawings of a video, which frames of several settings are compared with
def draw(person: Person, pose: Pose) -> Drawing:
    """Draw an image of the model's size.

    Args:
        person: The person.
        pose: The pose.

    Returns:
        The drawing, whose arrays cannot be written to: later calls return the same ones.
    """
    drawing = draw_face(person, pose, height=SIZE, width=SIZE, oversampling=OVERSAMPLING)
    for values in (drawing.image, drawing.keypoints, drawing.mouth):
        values.flags.writeable = False
    return drawing


@dataclass(frozen=True)
class Subject:
    """A person, and measurements of drawings of the person.

    Attributes:
        seed: Seed of the person.
        person: The person.
        rest: Drawing with a closed mouth and without rotation, of the model's size.
        patch: `identity_patch` of that drawing.
        closed: `mouth_opening` of the closed mouth, in eye distances.
        opened: `mouth_opening` of the wide open mouth, in eye distances.
    """

    seed: int
    person: Person
    rest: Drawing
    patch: NDArray[np.float32]
    closed: float
    opened: float

    def photo(self) -> Drawing:
        """Draw the photo for the generator."""
        return draw_face(self.person, height=PHOTO, width=PHOTO, oversampling=OVERSAMPLING)

    def draw(self, pose: Pose) -> Drawing:
        """Draw an image of the model's size.

        Args:
            pose: The pose.
        """
        return draw(self.person, pose)


def make_subject(seed: int) -> Subject:
    """Make a person.

    Args:
        seed: Seed of the person.
    """
    person = random_person(seed)
    rest, wide = (draw(person, Pose(mouth=mouth)) for mouth in (0.0, 1.0))
    closed, opened = (mouth_opening(drawing.image, drawing.keypoints) for drawing in (rest, wide))
    return Subject(seed, person, rest, identity_patch(rest.image, rest.keypoints), closed, opened)


def gallery(subjects: list[Subject], number: int) -> NDArray[np.float32]:
    """Return the identity patches of a person and of others.

    Args:
        subjects: All people.
        number: Index of the person.

    Returns:
        (G, h, w, 3), the person first, at most GALLERY people.
    """
    ring = [subjects[(number + i) % len(subjects)] for i in range(min(GALLERY, len(subjects)))]
    return np.stack([subject.patch for subject in ring])
