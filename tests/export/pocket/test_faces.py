"""Drawn faces: people, poses, pictures and keypoints."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import combinations
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.checkpoint.synthetic_detector import write_synthetic_detector
from export.pocket.faces import Person, Pose, draw_face, identity_distance, identity_patch, keypoints, random_person
from export.pocket.faces.people import BEARDS, COLLARS, GLASSES, LIGHTS, PATTERNS, STYLES
from export.pocket.faces.poses import pose_of
from tests.support.drawings import BEARDED, COMPLETE, POSES, SEEDS, small
from vexpress_rt.face.detector import Detector, detect, largest_face


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    path = tmp_path_factory.mktemp("detector") / "face_detector.onnx"
    write_synthetic_detector(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda blob: session.run(None, {"input.1": blob})


# People


def test_the_same_seed_is_the_same_person() -> None:
    assert random_person(3) == random_person(3)


def test_another_seed_is_another_person() -> None:
    people = [random_person(seed) for seed in range(50)]
    assert all(len({getattr(person, name) for person in people}) == 50 for name in ("skin", "hair", "jaw", "mouth"))


def test_people_are_of_every_kind() -> None:
    people = [random_person(seed) for seed in range(300)]
    kinds = {"style": STYLES, "beard": BEARDS, "glasses": GLASSES, "collar": COLLARS, "pattern": PATTERNS}
    for trait, choices in {**kinds, "lighting": LIGHTS}.items():
        assert {getattr(person, trait) for person in people} == set(choices)


def test_some_three_in_ten_wear_glasses() -> None:
    assert np.mean([random_person(seed).glasses != "none" for seed in range(500)]) == pytest.approx(0.3, abs=0.06)


def test_skin_comes_in_every_tone() -> None:
    tones = np.sort([np.mean(random_person(seed).skin) for seed in range(300)])
    assert tones[0] < 70
    assert tones[-1] > 210
    assert np.diff(tones).max() < 8


@given(st.integers(0, 2**63 - 1))
def test_colours_are_colours(seed: int) -> None:
    person = random_person(seed)
    colours = [getattr(person, field.name) for field in fields(person) if field.type == "Colour"]
    assert len(colours) == 9
    assert all(0 <= value <= 255 for colour in colours for value in colour)


def test_two_hundred_people_are_told_apart() -> None:
    drawings = [draw_face(seed, height=64, width=64, oversampling=1) for seed in range(200)]
    patches = np.stack([identity_patch(drawing.image, drawing.keypoints) for drawing in drawings])
    apart = np.concatenate([identity_distance(patches[:i], patches[i]) for i in range(1, len(patches))])
    assert apart.min() > 0.035  # more than lies between two poses of one person
    assert np.median(apart) > 0.1


# Pictures


def test_a_picture_does_not_depend_on_what_was_drawn_before() -> None:
    first = small(3)
    small(8, Pose(yaw=0.4, mouth=1), side=64)
    assert np.array_equal(small(3), first)


def test_other_seeds_draw_other_people() -> None:
    pictures = [small(seed) for seed in range(6)]
    assert all(abs(a - b).mean() > 4 for a, b in combinations(pictures, 2))


def test_a_portrait_has_the_asked_size() -> None:
    drawing = draw_face(0, height=64, width=96, oversampling=1)
    assert drawing.image.shape == (64, 96, 3)
    assert drawing.image.dtype == np.uint8


@pytest.mark.parametrize("seed", range(5))
def test_a_portrait_is_the_same_at_every_size(seed: int) -> None:
    halved = small(seed, side=192).reshape(96, 2, 96, 2, 3).mean(axis=(1, 3))
    assert abs(halved - small(seed)).mean() < 2


def test_oversampling_changes_only_edges() -> None:
    fine = draw_face(2, height=96, width=96, oversampling=6).image.astype(int)
    assert abs(small(2) - fine).mean() < 1


def otherwise(value: Any) -> Any:
    """Another value for a trait that is a number, a side, a choice of two, or a colour."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return tuple(255 - part for part in value)
    return -value if value in (-1, 1) else value - 0.15 if value > 1 else value + 0.15


@pytest.mark.parametrize("trait", [field.name for field in fields(Person) if field.type != "str"])
def test_each_trait_shows(trait: str) -> None:
    other = replace(COMPLETE, **{trait: otherwise(getattr(COMPLETE, trait))})
    assert (abs(small(COMPLETE) - small(other)).max(axis=2) > 5).sum() > 8


@pytest.mark.parametrize(
    ("trait", "choices"),
    [("style", STYLES), ("glasses", GLASSES), ("collar", COLLARS), ("pattern", PATTERNS), ("lighting", LIGHTS)],
)
def test_each_choice_looks_different(trait: str, choices: dict[str, float]) -> None:
    pictures = [small(replace(COMPLETE, **{trait: choice})) for choice in choices]
    assert min((abs(a - b).max(axis=2) > 5).sum() for a, b in combinations(pictures, 2)) > 20


def test_each_beard_looks_different() -> None:
    pictures = [small(replace(BEARDED, beard=beard)) for beard in BEARDS]
    assert min((abs(a - b).max(axis=2) > 5).sum() for a, b in combinations(pictures, 2)) > 20


# Poses and keypoints


@given(seed=SEEDS, pose=POSES, height=st.integers(64, 512), width=st.integers(64, 512))
def test_keypoints_lie_inside_and_make_a_face(seed: int, pose: Pose, height: int, width: int) -> None:
    points = keypoints(random_person(seed), pose, height, width)
    left, right, nose = points
    assert (points > 0).all()
    assert (points < (width, height)).all()
    assert left[0] < right[0]
    assert nose[1] > (left[1] + right[1]) / 2


@pytest.mark.parametrize("pose", [Pose(), Pose(yaw=0.3, pitch=-0.1), Pose(roll=-0.2, x=0.05), Pose(scale=0.8, y=0.05)])
@pytest.mark.parametrize("seed", [0, 3, 6])
def test_pupils_are_where_the_keypoints_say(seed: int, pose: Pose) -> None:
    drawing = draw_face(seed, pose, height=256, width=256, oversampling=2)
    for x, y in drawing.keypoints[:2].round().astype(int):
        assert drawing.image[y - 2 : y + 3, x - 2 : x + 3].max(axis=2).min() < 60


def test_a_drawing_says_how_it_was_posed() -> None:
    drawing = draw_face(1, Pose(yaw=0.2, mouth=0.5, width=-0.25, rounding=1), height=64, width=64, oversampling=1)
    assert np.array_equal(drawing.keypoints, keypoints(random_person(1), Pose(yaw=0.2), 64, 64))
    assert drawing.mouth.dtype == np.float32
    assert drawing.mouth.tolist() == [0.5, -0.25, 1]


def test_a_turning_head_moves_its_nose_further_than_its_eyes() -> None:
    person = random_person(0)
    moved = keypoints(person, Pose(yaw=0.3), 256, 256) - keypoints(person, Pose(), 256, 256)
    assert moved[2, 0] > moved[:2, 0].max() > 0


def test_scale_sets_the_eyes_distance() -> None:
    person = random_person(0)
    left, right, _ = keypoints(person, Pose(scale=1.2), 200, 200)
    usual = keypoints(person, Pose(), 200, 200)
    assert right[0] - left[0] == pytest.approx(1.2 * (usual[1, 0] - usual[0, 0]), rel=1e-5)


@given(POSES)
def test_a_pose_is_read_off_the_keypoints_of_an_average_head(pose: Pose) -> None:
    average = replace(random_person(0), eye_distance=1.0)
    found = pose_of(keypoints(average, pose, 128, 128), 128, 128)
    for name, within in {"yaw": 0.08, "pitch": 0.16, "roll": 0.06, "x": 0.02, "y": 0.06, "scale": 0.06}.items():
        assert getattr(found, name) == pytest.approx(getattr(pose, name), abs=within)


def test_a_blink_hides_the_eyes() -> None:
    drawing = draw_face(0, height=96, width=96)
    x, y = drawing.keypoints[0].round().astype(int)
    assert small(0, Pose(blink=1))[y - 1, x].max() > small(0)[y - 1, x].max() + 40


@pytest.mark.parametrize("seed", [0, 2, 5, 11, 13, 23])
@pytest.mark.parametrize("side", [128, 256])
def test_the_detector_finds_the_drawn_face(run: Detector, seed: int, side: int) -> None:
    drawing = draw_face(seed, height=side, width=side, oversampling=2)
    found = largest_face(detect(run, drawing.image)).keypoints[:3]
    between_eyes = np.linalg.norm(drawing.keypoints[1] - drawing.keypoints[0])
    assert np.linalg.norm(found - drawing.keypoints, axis=1).max() < 0.4 * between_eyes


def test_the_detector_follows_the_drawn_face(run: Detector) -> None:
    poses = [Pose(x=x, y=y) for x, y in [(-0.08, 0), (0, -0.05), (0, 0), (0, 0.05), (0.08, 0)]]
    drawings = [draw_face(11, pose, height=128, width=128, oversampling=2) for pose in poses]
    found = np.stack([largest_face(detect(run, d.image)).keypoints[:3] for d in drawings])
    drift = (found - np.stack([d.keypoints for d in drawings])).mean(axis=1)
    assert abs(drift - drift.mean(axis=0)).max() < 3
