"""Faces are detected in pictures with an SCRFD network."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.faces import face_at
from tests.support.paths import GOLDEN
from vexpress_rt.errors import BackendError, ImageError, NoFaceError
from vexpress_rt.face.detector import detect, largest_face, postprocess, preprocess

VALUES = np.load(GOLDEN / "face_detector.npz")
IMAGE = np.ascontiguousarray(VALUES["image_bgr"][:, :, ::-1])


def no_detections(size=512):
    """Nine raw outputs in which every score is zero."""
    cells = [2 * (size // stride) ** 2 for stride in (8, 16, 32)]
    return [np.zeros((count, width), np.float32) for width in (1, 4, 10) for count in cells]


def test_the_network_input_equals_that_of_the_reference():
    blob, scale = preprocess(IMAGE)
    assert blob.shape == (1, 3, 512, 512)
    assert blob.dtype == np.float32
    np.testing.assert_array_equal(blob[:, :, ::16, ::16], VALUES["blob"])
    assert scale == 512 / 400


def test_boxes_scores_and_points_equal_those_of_the_reference():
    faces = detect(lambda blob: [VALUES[f"raw{i}"] for i in range(9)], IMAGE)
    boxes = np.array([[*face.box, face.score] for face in faces])
    np.testing.assert_allclose(boxes, VALUES["boxes"], atol=1e-4)
    np.testing.assert_allclose(np.array([face.keypoints for face in faces]), VALUES["keypoints"], atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "filled"), [((100, 200), (256, 512)), ((200, 100), (512, 256)), ((64, 64), (512, 512))]
)
def test_a_picture_keeps_its_aspect_and_lies_top_left_on_black(shape, filled):
    blob, scale = preprocess(np.full((*shape, 3), 255, np.uint8))
    black = np.float32(-127.5 / 128)
    assert (blob[:, :, : filled[0], : filled[1]] == -black).all()
    assert (blob[:, :, filled[0] :] == black).all()
    assert (blob[:, :, :, filled[1] :] == black).all()
    assert scale == filled[0] / shape[0]


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1)])
def test_a_picture_one_pixel_thin_is_still_searched(shape):
    assert detect(lambda blob: no_detections(), np.zeros((*shape, 3), np.uint8)) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_a_picture_that_is_not_rgb_bytes_is_refused(image):
    with pytest.raises(ImageError, match="expected \\(H, W, 3\\) uint8"):
        preprocess(image)


@pytest.mark.parametrize(("level", "stride"), list(enumerate((8, 16, 32))))
@pytest.mark.parametrize("anchor", [0, 1])
def test_an_anchor_is_at_its_cells_first_pixel_in_units_of_strides(level, stride, anchor):
    outputs = no_detections()
    row, column = 3, 5
    index = (row * (512 // stride) + column) * 2 + anchor
    outputs[level][index] = 0.75
    outputs[3 + level][index] = 1, 2, 3, 4
    outputs[6 + level][index] = np.arange(10)
    (face,) = postprocess(outputs, scale=2.0)
    x, y = column * stride, row * stride
    assert face.score == 0.75
    assert face.box.tolist() == [(x - stride) / 2, (y - 2 * stride) / 2, (x + 3 * stride) / 2, (y + 4 * stride) / 2]
    assert face.keypoints[1].tolist() == [(x + 2 * stride) / 2, (y + 3 * stride) / 2]


def test_a_detection_below_the_threshold_is_no_face():
    outputs = no_detections()
    outputs[0][7] = 0.49
    assert postprocess(outputs, 1.0) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("kind", [3, 6])
def test_a_box_or_point_that_is_not_finite_is_dropped(kind, value):
    outputs = no_detections()
    outputs[0][[7, 4000]] = 0.9
    outputs[3][[7, 4000]] = 1
    outputs[kind][7, 2] = value
    (face,) = postprocess(outputs, 1.0)
    assert np.isfinite(face.box).all()


def test_a_score_that_is_nan_is_no_face():
    outputs = no_detections()
    outputs[0][7] = np.nan
    assert postprocess(outputs, 1.0) == []


@pytest.mark.parametrize(
    "damage",
    [lambda o: o[:6], lambda o: o[::-1], lambda o: [x[:-1] for x in o], lambda o: [], lambda o: [x[None] for x in o]],
)
def test_a_network_that_is_not_scrfd_is_named_as_such(damage):
    with pytest.raises(BackendError, match="not an SCRFD network"):
        postprocess(damage(no_detections()), 1.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_faces_come_best_first_and_overlap_little(seed):
    rng = np.random.default_rng(seed)
    outputs = no_detections(64)
    for level in range(3):
        outputs[level][:] = rng.uniform(0, 1, outputs[level].shape)
        outputs[3 + level][:] = rng.uniform(0.5, 4, outputs[3 + level].shape)
    faces = postprocess(outputs, 1.0, size=64)
    scores = [face.score for face in faces]
    assert scores == sorted(scores, reverse=True)
    boxes = np.array([face.box for face in faces], np.float64)
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(high - low + 1, 0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
    overlap = shared / (areas[:, None] + areas[None] - shared)
    assert (overlap[~np.eye(len(faces), dtype=bool)] <= 0.4 + 1e-5).all()


def test_the_largest_face_is_that_of_the_largest_box():
    assert largest_face([face_at(50, 50, 10), face_at(200, 200, 30), face_at(90, 90, 20)]).box[0] == 170


def test_no_face_where_one_is_needed_is_an_error_with_a_remedy():
    with pytest.raises(NoFaceError, match="give its keypoints"):
        largest_face([])
