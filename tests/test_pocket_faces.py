"""Drawn faces: people, poses, pictures and keypoints."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.detector import synthetic_detector
from export.pocket.faces import Pose, draw_face, keypoints, random_person
from export.pocket.faces.canvas import Canvas, curve, ellipse
from vexpress_rt.faces import Detector, detect, largest_face

POSES = st.builds(
    Pose, yaw=st.floats(-0.4, 0.4), pitch=st.floats(-0.25, 0.25), roll=st.floats(-0.3, 0.3), x=st.floats(-0.1, 0.1),
    y=st.floats(-0.08, 0.08), mouth=st.floats(0, 1), blink=st.floats(0, 1),
)  # fmt: skip


def small(person: int, pose: Pose | None = None, side: int = 96) -> NDArray[np.int64]:
    """A drawing small enough for a test, as integers that can be subtracted."""
    return draw_face(person, pose or Pose(), height=side, width=side, oversampling=2).image.astype(int)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    path = tmp_path_factory.mktemp("detector") / "face_detector.onnx"
    synthetic_detector(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda blob: session.run(None, {"input.1": blob})


# Portraits


def test_the_same_seed_draws_the_same_picture() -> None:
    assert np.array_equal(small(3), small(3))


def test_other_seeds_draw_other_people() -> None:
    pictures = [small(seed) for seed in range(6)]
    assert all(abs(a - b).mean() > 4 for i, a in enumerate(pictures) for b in pictures[:i])


def test_a_portrait_has_the_asked_size() -> None:
    drawing = draw_face(0, height=64, width=96, oversampling=1)
    assert drawing.image.shape == (64, 96, 3)
    assert drawing.image.dtype == np.uint8


def test_a_portrait_is_the_same_at_every_size() -> None:
    halved = small(5, side=192).reshape(96, 2, 96, 2, 3).mean(axis=(1, 3))
    assert abs(halved - small(5)).mean() < 3


@given(seed=st.integers(0, 10_000), pose=POSES, height=st.integers(64, 512), width=st.integers(64, 512))
def test_keypoints_lie_inside_and_make_a_face(seed: int, pose: Pose, height: int, width: int) -> None:
    points = keypoints(random_person(seed), pose, height, width)
    left, right, nose = points
    assert (points > 0).all()
    assert (points < (width, height)).all()
    assert left[0] < right[0]
    assert nose[1] > (left[1] + right[1]) / 2


@pytest.mark.parametrize("pose", [Pose(), Pose(yaw=0.3, pitch=-0.1), Pose(roll=-0.2, x=0.05)])
def test_pupils_are_where_the_keypoints_say(pose: Pose) -> None:
    drawing = draw_face(0, pose, height=256, width=256, oversampling=2)
    for x, y in drawing.keypoints[:2].round().astype(int):
        assert drawing.image[y - 2 : y + 3, x - 2 : x + 3].min() < 40


def test_a_turning_head_moves_its_nose_further_than_its_eyes() -> None:
    person = random_person(0)
    moved = keypoints(person, Pose(yaw=0.3), 256, 256) - keypoints(person, Pose(), 256, 256)
    assert moved[2, 0] > moved[:2, 0].max() > 0


def test_talking_changes_nothing_above_the_nose() -> None:
    drawing = draw_face(0, height=96, width=96)
    changed = abs(small(0, Pose(mouth=1)) - small(0)).max(axis=(1, 2)) > 3
    assert changed.any()
    assert np.flatnonzero(changed).min() > drawing.keypoints[2, 1]


def test_a_blink_hides_the_eyes() -> None:
    drawing = draw_face(0, height=96, width=96)
    x, y = drawing.keypoints[0].round().astype(int)
    assert small(0, Pose(blink=1))[y - 1, x].max() > small(0)[y - 1, x].max() + 60


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


# Painting


def test_a_shape_covers_as_much_as_its_area() -> None:
    canvas = Canvas(40, 40)
    canvas.fill(ellipse(20, 20, 10, 5), (255, 255, 255))
    assert canvas.image()[..., 0].sum() / 255 == pytest.approx(np.pi * 10 * 5, rel=0.02)


def test_a_blurred_shape_covers_as_much_as_a_sharp_one() -> None:
    canvas = Canvas(90, 90)
    canvas.fill(ellipse(45, 45, 10, 5), (255, 255, 255), soft=8)
    assert canvas.image()[..., 0].max() < 128
    assert canvas.image()[..., 0].sum() / 255 == pytest.approx(np.pi * 10 * 5, rel=0.1)


def test_a_shape_beyond_the_edge_is_cut_off() -> None:
    canvas = Canvas(20, 20)
    canvas.fill(ellipse(0, 10, 5, 5), (255, 255, 255), soft=1)
    canvas.fill(ellipse(60, 10, 5, 5), (255, 255, 255), soft=1)
    columns = canvas.image()[..., 0].max(axis=0)
    assert columns[0] > 200
    assert not columns[12:].any()


def test_a_curve_runs_through_its_points() -> None:
    points = np.array([(0, 0), (3, 5), (9, 4), (7, -2)])
    assert np.array_equal(curve(points, steps=10)[::10], points)
    assert np.array_equal(curve(points, closed=False)[[0, -1]], points[[0, -1]])
