"""The pocket model's face detector: SCRFD's interface, what it is asked to find, and that it learns."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.onnx.graph import read_interface
from export.pocket import detector
from export.pocket.detector import CELL, HEIGHTS, STRIDES, FaceDetector, measure, targets, write_detector
from export.pocket.faces import Pose, draw_face, random_person
from export.pocket.pretraining import RunContext
from export.pocket.snapshots import SIDE, Face, Portrait, Snapshot, draw_portrait, face_points, snapshot
from export.pocket.training_loop import TrainingSchedule
from vexpress_rt.face.detector import postprocess

CANVAS = 64  # pixels of the pictures that the network is trained on


@pytest.fixture(scope="module")
def portraits() -> list[Portrait]:
    return [draw_portrait(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def untrained() -> FaceDetector:
    torch.manual_seed(0)
    return FaceDetector().eval()


@pytest.fixture(scope="module")
def file(untrained: FaceDetector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "det_10g.onnx"
    write_detector(untrained, path)
    return path


def found(file: Path, picture: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return list(onnxruntime.InferenceSession(str(file), options).run(None, {"input.1": picture}))


def test_the_file_is_small_and_has_the_inputs_and_outputs_of_scrfd(file: Path) -> None:
    inputs, outputs = read_interface(file)
    assert [(t.name, t.shape, t.dtype) for t in inputs] == [("input.1", (1, 3, None, None), "float32")]
    assert [(t.shape, t.dtype) for t in outputs] == [((None, w), "float32") for w in (1, 4, 10) for _ in STRIDES]
    assert file.stat().st_size < 150_000
    onnx.checker.check_model(onnx.load(file), full_check=True)


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_the_file_computes_what_the_rounded_network_does_in_pictures_of_any_size(
    untrained: FaceDetector, file: Path, size: tuple[int, int]
) -> None:
    picture = np.random.default_rng(0).standard_normal((1, 3, *size)).astype(np.float32)
    with torch.no_grad():
        expected = copy.deepcopy(untrained).half().float()(torch.from_numpy(picture))
    for one, other in zip(found(file, picture), expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-4, atol=1e-5)


def test_rounding_moves_points_by_less_than_can_be_seen(untrained: FaceDetector, file: Path) -> None:
    picture = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        expected = untrained(torch.from_numpy(picture))
    for one, other in zip(found(file, picture), expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=0.02)  # cells


def test_the_runtime_accepts_what_the_file_gives(file: Path) -> None:
    outputs = found(file, np.zeros((1, 3, 128, 128), np.float32))
    assert postprocess(outputs, 1.0, size=128) == []


def shot(height: float, nose: tuple[float, float], whole: bool = True) -> Snapshot:
    """Of a face of that height in pixels, with its nose there."""
    offsets = np.array([[-0.2, -0.25], [0.18, -0.2], [0, 0], [-0.15, 0.15], [0.16, 0.2]]) * height
    box = np.tile(nose, 2) + np.array([-0.4, -0.6, 0.4, 0.4]) * height
    face = Face(box.astype(np.float32), (offsets + nose).astype(np.float32), whole)
    return Snapshot(np.zeros((CANVAS, CANVAS, 3), np.uint8), face)


def as_outputs(wanted: tuple[np.ndarray, ...], level: int, size: int) -> list[np.ndarray]:
    """The detector's nine outputs, if one stride found what it should and the others nothing."""
    scores, _, values = wanted
    outputs = [np.zeros((2 * (size // s) ** 2, width), np.float32) for width in (1, 4, 10) for s in STRIDES]
    outputs[level] = scores.transpose(1, 2, 0).reshape(-1, 1)
    for kind, part in ((1, values[:4]), (2, values[4:])):
        outputs[3 * kind + level] = np.repeat(part.transpose(1, 2, 0).reshape(-1, len(part)), 2, axis=0)
    return outputs


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("height", np.geomspace(*HEIGHTS, 3))
def test_targets_are_decoded_to_the_face_that_they_were_made_of(level: int, height: float) -> None:
    one, factor = shot(height, (29.3, 35.9)), STRIDES[level] // CELL
    size = CANVAS * factor
    (face,) = postprocess(as_outputs(targets(one), level, size), 1.0, size)
    assert one.face is not None
    np.testing.assert_allclose(face.box, one.face.box * factor, rtol=0, atol=1e-3)
    np.testing.assert_allclose(face.keypoints, one.face.points * factor, rtol=0, atol=1e-3)


@pytest.mark.parametrize("height", [HEIGHTS[0] / 2, HEIGHTS[1] * 2])
def test_a_face_that_is_far_too_small_or_large_for_a_stride_is_none_to_it(height: float) -> None:
    scores, weights, _ = targets(shot(height, (32, 32)))
    assert not scores.any()
    assert weights.all()


@pytest.mark.parametrize("height", np.geomspace(60, 480, 9))
def test_faces_of_all_heights_are_some_strides(height: float) -> None:
    assert max(targets(shot(height * CELL / stride, (32, 32)))[0].max() for stride in STRIDES) == 1


def test_a_face_that_is_cut_off_counts_neither_as_found_nor_as_missed() -> None:
    scores, weights, _ = targets(shot(40, (32, 32), whole=False))
    assert not scores.any()
    np.testing.assert_array_equal(weights == 0, targets(shot(40, (32, 32)))[0] > 0)


@given(st.integers(0, 2**32 - 1), st.sampled_from([64, 96]))
@settings(max_examples=30, deadline=None)
def test_a_snapshots_face_is_where_its_points_are(portraits: list[Portrait], seed: int, side: int) -> None:
    shown = snapshot(lambda rng: portraits[int(rng.integers(3))], np.random.default_rng(seed), side, HEIGHTS)
    assert (shown.image.shape, shown.image.dtype) == ((side, side, 3), np.uint8)
    if shown.face is not None:
        left, right, nose, *_ = shown.face.points
        assert left[0] < right[0]
        assert max(left[1], right[1]) < nose[1]
        low, high = shown.face.box.reshape(2, 2)
        assert ((shown.face.points > low) & (shown.face.points < high)).all()
        assert HEIGHTS[0] / 5 < high[1] - low[1] < HEIGHTS[1] * 8


def test_equal_seeds_give_equal_snapshots(portraits: list[Portrait]) -> None:
    one, other = (snapshot(lambda rng: portraits[0], np.random.default_rng(4), 64, HEIGHTS) for _ in range(2))
    np.testing.assert_array_equal(one.image, other.image)


def test_a_portraits_points_are_the_drawings_and_its_mouth_is_where_it_opens() -> None:
    person, closed, wide = random_person(5), Pose(yaw=0.3, roll=0.2), Pose(yaw=0.3, roll=0.2, mouth=1)
    points = face_points(person, wide)
    before, after = (draw_face(person, pose, height=SIDE, width=SIDE) for pose in (closed, wide))
    np.testing.assert_array_equal(points[:3], after.keypoints)
    red = after.image[..., 0] < 0.5 * before.image[..., 0]  # dark between the lips
    y, x = np.argwhere(red).mean(axis=0)
    corners = points[3:5]
    assert corners[0, 0] < x < corners[1, 0]
    assert np.linalg.norm(corners.mean(axis=0) - (x, y)) < 0.5 * np.linalg.norm(corners[1] - corners[0])


def test_a_few_steps_of_training_lower_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "HELD_OUT", range(1_000_000, 1_000_001))
    monkeypatch.setattr(detector, "CANVASES", ((64, 4), (96, 2)))
    lines: list[str] = []
    schedule = TrainingSchedule(steps=12, warmup=3, learning_rate=3e-3, ema_decay=0.5, report_every=4, save_every=12)
    detector.train_detector(RunContext(tmp_path, tmp_path, lines.append), schedule, people=range(2))
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    assert (tmp_path / "detector.pt").exists()
    assert any("held out" in line for line in lines)


def test_a_network_that_finds_nothing_is_measured_as_such(untrained: FaceDetector, portraits: list[Portrait]) -> None:
    assert measure(untrained, portraits) == "0 of 3 faces, no nose, 0 false faces"
