"""Measurements in pictures of faces, compared with the drawn values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from export.pocket.faces import (
    Drawing,
    Pose,
    draw_face,
    identity_distance,
    identity_patch,
    mouth_opening,
    random_person,
)
from export.pocket.faces.measures import PATCH
from export.pocket.faces.poses import Head

PEOPLE, POSES = 20, 10


@dataclass(frozen=True)
class Gallery:
    """Drawings of people in poses, [person][pose]; the first two of each have their mouths closed."""

    drawings: list[list[Drawing]]

    def openings(self, blur: float = 0.0) -> NDArray[np.float64]:
        """Measured, (people, poses)."""
        return np.array([[mouth_opening(blurred(d.image, blur), d.keypoints) for d in row] for row in self.drawings])

    @property
    def truth(self) -> NDArray[np.float64]:
        """How far the mouths are open, (people, poses)."""
        return np.array([[d.mouth[0] for d in row] for row in self.drawings], float)


def blurred(image: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), radius), np.uint8) if radius else image


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def some_pose(rng: np.random.Generator, mouth: float) -> Pose:
    reach = {"yaw": 0.4, "pitch": 0.25, "roll": 0.3, "x": 0.08, "y": 0.06, "width": 1}
    turned = {name: float(rng.uniform(-limit, limit)) for name, limit in reach.items()}
    scale, rounding = rng.uniform((0.85, 0), (1.15, 1)).tolist()
    return Pose(**turned, scale=scale, rounding=rounding, mouth=mouth, blink=float(rng.random() < 0.2))


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    rng = np.random.default_rng(1)
    rows = []
    for seed in range(1000, 1000 + PEOPLE):
        mouths = [0.0, 0.0, *rng.uniform(0, 1, POSES - 2).tolist()]
        poses = [some_pose(rng, mouth) for mouth in mouths]
        rows.append([draw_face(seed, pose, height=128, width=128, oversampling=2) for pose in poses])
    return Gallery(rows)


# Mouths


def test_the_opening_is_measured_over_all_people_and_poses(gallery: Gallery) -> None:
    assert correlation(gallery.openings(), gallery.truth) > 0.95


def test_the_opening_is_measured_for_each_person(gallery: Gallery) -> None:
    pairs = zip(gallery.openings(), gallery.truth, strict=True)
    assert min(correlation(measured, truth) for measured, truth in pairs) > 0.97


def test_the_opening_is_measured_in_blurred_pictures(gallery: Gallery) -> None:
    assert correlation(gallery.openings(blur=1.0), gallery.truth) > 0.9


def test_a_closed_mouth_measures_next_to_nothing(gallery: Gallery) -> None:
    closed = gallery.openings()[gallery.truth == 0]
    assert closed.mean() < 0.03
    assert closed.max() < 0.08


@pytest.mark.parametrize("beard", ["none", "stubble", "moustache", "goatee", "full"])
@pytest.mark.parametrize("seed", [3, 5, 10])
def test_no_beard_hides_the_mouth(seed: int, beard: str) -> None:
    person = replace(random_person(seed), style="short", beard=beard)
    drawings = [draw_face(person, Pose(mouth=mouth), height=128, width=128, oversampling=2) for mouth in (0, 0.5, 1)]
    closed, half, wide = (mouth_opening(drawing.image, drawing.keypoints) for drawing in drawings)
    assert closed < 0.08
    assert 0.13 < half < 0.3
    assert 0.3 < wide < 0.5


def test_red_below_the_chin_is_no_lip() -> None:
    drawing = draw_face(2, height=128, width=128, oversampling=2)
    image, chin = drawing.image.copy(), Head(Pose(), 128, 128).place([(0, 1.18)])[0, 1]
    image[int(chin) :] = (165, 85, 80)
    assert mouth_opening(image, drawing.keypoints) < 0.08


def test_the_opening_does_not_depend_on_the_size_of_the_picture() -> None:
    drawings = [draw_face(2, Pose(mouth=0.7), height=side, width=side, oversampling=2) for side in (128, 384)]
    small, large = (mouth_opening(drawing.image, drawing.keypoints) for drawing in drawings)
    assert small == pytest.approx(large, abs=0.03)


def test_a_picture_without_a_face_has_no_open_mouth() -> None:
    grey = np.full((128, 128, 3), 90, np.uint8)
    assert mouth_opening(grey, draw_face(0, height=128, width=128, oversampling=1).keypoints) == 0


# Identities


def test_the_nearest_of_twenty_is_the_same_person(gallery: Gallery) -> None:
    patches = np.array([[identity_patch(d.image, d.keypoints) for d in row] for row in gallery.drawings])
    distances = identity_distance(patches[:, 1:, None], patches[None, None, :, 0])  # (people, poses, people)
    assert (distances.argmin(axis=2) == np.arange(PEOPLE)[:, None]).mean() >= 0.99


def test_a_patch_is_small_and_normalised() -> None:
    drawing = draw_face(0, height=64, width=96, oversampling=1)
    patch = identity_patch(drawing.image, drawing.keypoints)
    assert patch.shape == (PATCH, PATCH, 3)
    assert patch.dtype == np.float32
    assert 0 <= patch.min() < patch.max() <= 1


def test_patches_of_a_moved_head_agree() -> None:
    drawings = [
        draw_face(7, pose, height=128, width=128, oversampling=2) for pose in (Pose(), Pose(x=0.05, scale=1.15))
    ]
    first, second = (identity_patch(drawing.image, drawing.keypoints) for drawing in drawings)
    assert identity_distance(first, second) < 0.03


def test_distance_is_zero_to_oneself_and_the_same_both_ways() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, PATCH, PATCH, 3), np.float32)
    assert identity_distance(first, first) == 0
    assert identity_distance(first, second) == identity_distance(second, first) > 0
