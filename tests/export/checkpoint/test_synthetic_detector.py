"""The face detector of synthetic bundles, run as an engine by the same code as SCRFD."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from export.checkpoint.synthetic_detector import write_synthetic_detector
from tests.support.portraits import BLUE, GREEN, GREY, SKIN, drawn_portrait
from vexpress_rt.face.detector import Detector, detect, largest_face
from vexpress_rt.face.tracker import track_faces

SKINS = [SKIN, (255, 219, 172), (241, 194, 125), (224, 172, 105), (198, 150, 115), (150, 105, 80)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "face_detector.onnx"
    write_synthetic_detector(path)
    return path


@pytest.fixture(scope="module")
def run(file: Path) -> Detector:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda blob: session.run(None, {"input.1": blob})


def test_the_file_is_small_and_always_the_same(file: Path, tmp_path: Path) -> None:
    write_synthetic_detector(tmp_path / "again.onnx")
    assert file.read_bytes() == (tmp_path / "again.onnx").read_bytes()
    assert file.stat().st_size < 100_000


def test_the_file_needs_no_newer_opset_than_twenty(file: Path) -> None:
    assert onnx.load(file).opset_import[0].version <= 20


@pytest.mark.parametrize("size", [(512, 512), (320, 640)])
def test_outputs_come_as_scrfds_do_for_any_input_of_whole_cells(run: Detector, size: tuple[int, int]) -> None:
    outputs = run(np.zeros((1, 3, *size), np.float32))
    cells = [2 * (size[0] // stride) * (size[1] // stride) for stride in (8, 16, 32)]
    assert [output.shape for output in outputs] == [(n, width) for width in (1, 4, 10) for n in cells]
    assert all(output.dtype == np.float32 and np.isfinite(output).all() for output in outputs)


@pytest.mark.parametrize("skin", SKINS)
@pytest.mark.parametrize("background", [BLUE, GREY, GREEN])
def test_the_face_of_a_drawn_portrait_is_found(run: Detector, skin: Any, background: Any) -> None:
    faces = detect(run, drawn_portrait(512, 512, 240, 220, 80, skin, background))
    best = faces[0]
    assert best is largest_face(faces)
    expected = [(240 - 34, 196), (240 + 34, 196), (240, 225)]
    assert np.linalg.norm(best.keypoints[:3] - expected, axis=1).max() < 0.2 * 160
    assert abs((best.box[:2] + best.box[2:]) / 2 - (240, 220)).max() < 0.2 * 160


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (256, 256), (720, 1280), (600, 400)])
def test_it_is_found_in_pictures_of_all_sizes(run: Detector, height: int, width: int) -> None:
    x, y, half = 0.5 * width, 0.42 * height, 0.2 * height / 1.3
    best = largest_face(detect(run, drawn_portrait(height, width, x, y, half)))
    assert abs(best.keypoints[:2].mean(axis=0) - (x, y - 0.3 * half)).max() < 0.4 * half


@pytest.mark.parametrize("half", [40, 60, 90, 130])
def test_the_box_grows_with_the_face(run: Detector, half: int) -> None:
    best = largest_face(detect(run, drawn_portrait(512, 512, 256, 230, half)))
    assert best.box[2] - best.box[0] == pytest.approx(2 * half, rel=0.2)


def test_points_lie_as_in_a_face(run: Detector) -> None:
    left, right, nose, mouth_left, mouth_right = largest_face(
        detect(run, drawn_portrait(512, 512, 256, 220, 80))
    ).keypoints
    assert left[0] < nose[0] < right[0]
    assert mouth_left[0] < nose[0] < mouth_right[0]
    assert max(left[1], right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])


def test_the_points_follow_a_face_that_moves(run: Detector) -> None:
    places = np.array([(256 + 60 * np.sin(i / 3), 220 + 30 * np.cos(i / 2)) for i in range(20)]).round()
    found = [detect(run, drawn_portrait(512, 512, x, y, 80)) for x, y in places]
    track = track_faces(found, Fraction(25), (512, 512))
    drift = track.points.mean(axis=1) - places
    assert abs(drift - drift.mean(axis=0)).max() < 8


NOTHING: dict[str, Callable[[], Any]] = {
    "black": lambda: np.zeros((512, 512, 3), np.uint8),
    "white": lambda: np.full((512, 512, 3), 255, np.uint8),
    "grey": lambda: np.full((300, 400, 3), 128, np.uint8),
    "all skin": lambda: np.full((512, 512, 3), SKIN, np.uint8),
    "noise": lambda: np.random.default_rng(0).integers(0, 256, (512, 512, 3)).astype(np.uint8),
    "coarse noise": lambda: np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8),
    "blue disc": lambda: cv2.circle(np.zeros((512, 512, 3), np.uint8), (256, 256), 100, BLUE, -1),
}


@pytest.mark.parametrize("picture", NOTHING)
def test_there_is_no_face_where_there_is_nothing(run: Detector, picture: str) -> None:
    assert detect(run, NOTHING[picture]()) == []
