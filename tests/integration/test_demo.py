"""The demo: its inputs, measurement of lips, contact sheet, and a whole run with random weights."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from demo.__main__ import main
from demo.acting import act
from demo.charts import PAPER, SEEN, Chart
from demo.inputs import DRIVER, SITTERS, SPEECH, Inputs, make_inputs
from demo.lips import agreement, moments, openings
from demo.scenes import SCENES
from demo.sheet import CELL, COLUMNS, WIDTH, Row, Sound, contact_sheet
from export.pocket.acting import REACH
from export.pocket.faces import Drawing, Pose, draw_face, random_person
from export.pocket.lips import RATE, mouth_track
from tests.support.paths import ROOT
from tests.support.photo_bytes import load_image
from tests.support.scenes import read_back
from vexpress_rt import GenerationConfig
from vexpress_rt.face.keypoint_track import load_keypoints
from vexpress_rt.media.recording import Recording, open_recording
from vexpress_rt.media.video_reader import read_frames
from vexpress_rt.types import Face

FPS = 25


@pytest.fixture(scope="module")
def speech() -> Recording:
    return open_recording(SPEECH, RATE)


@pytest.fixture(scope="module")
def heard(speech: Recording) -> NDArray[np.float32]:
    """Openness expected from the shipped recording, by frame."""
    return mouth_track(speech.read()).at(speech.frame_count(Fraction(FPS)), FPS)[:, 0]


# Dependencies


def test_the_demo_needs_nothing_but_what_the_runtime_needs() -> None:
    code = "import sys, demo.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "export" in loaded
    assert not {"torch", "transformers", "safetensors", "onnx", "onnxscript", "scipy"} & set(loaded)


# Inputs


def test_the_shipped_recording_is_a_few_seconds_of_speech_with_pauses(
    speech: Recording, heard: NDArray[np.float32]
) -> None:
    assert 3 < speech.duration < 4
    assert heard.max() > 0.8
    assert (heard < 0.05).mean() > 0.15


def test_training_saw_nobody_of_the_demo() -> None:
    people = [*SITTERS.values(), DRIVER]
    assert len(set(people)) == 3
    assert min(people) >= 1_000_000


def test_the_driving_face_has_other_proportions_than_those_it_drives() -> None:
    distances = [random_person(seed).eye_distance for seed in SITTERS.values()]
    assert random_person(DRIVER).eye_distance > 1.03 * max(distances)


def test_heads_move_about_as_far_as_in_training() -> None:
    poses = act(np.zeros((500, 3)), FPS)
    for name, reach in REACH.items():
        moved = np.ptp([getattr(pose, name) for pose in poses])
        assert 0.4 * reach < moved < 2 * reach


def test_an_actors_mouth_does_what_it_is_told() -> None:
    mouth = np.random.default_rng(0).random((7, 3))
    poses = act(mouth, FPS)
    np.testing.assert_allclose([(pose.mouth, pose.width, pose.rounding) for pose in poses], mouth)


def test_a_mirrored_actor_turns_the_other_way() -> None:
    pairs = zip(act(np.zeros((50, 3)), FPS), act(np.zeros((50, 3)), FPS, mirrored=True), strict=True)
    assert all((a.yaw, a.roll, a.x, a.pitch, a.y) == (-b.yaw, -b.roll, -b.x, b.pitch, b.y) for a, b in pairs)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Inputs at 2 frames a second, for pictures of 96 x 64."""
    return make_inputs(tmp_path_factory.mktemp("inputs"), SPEECH, (64, 96), Fraction(2))


def test_inputs_are_files_that_the_runtime_reads(inputs: Inputs) -> None:
    length = inputs.speech.frame_count(Fraction(2))
    assert len(list(read_frames(inputs.driving).frames())) == length == len(inputs.mouth)
    for sitter in inputs.sitters:
        track = load_keypoints(sitter.keypoints).points
        assert load_image(sitter.photo).shape == (512, 512, 3)
        assert track.shape == (length, 3, 2)
        assert ((track > 0) & (track < (96, 64))).all()


def test_openness_is_a_share_of_what_each_sitter_can(inputs: Inputs) -> None:
    for sitter in inputs.sitters:
        ends = np.array([sitter.closed, sitter.opened])
        assert ends[0] + 0.2 < ends[1]
        np.testing.assert_allclose(sitter.openness(ends), [0, 1])


# Lips


def face(drawing: Drawing) -> Face:
    """Return the face of a drawing as a detector does."""
    points = np.zeros((5, 2), np.float32)
    points[:3] = drawing.keypoints
    return Face(np.array([30, 20, 98, 110], np.float32), 0.9, points)


def test_openings_go_with_the_mouths_in_the_frames() -> None:
    mouths = np.array([0.0, 0.5, 1.0, 0.2, 0.8])
    drawings = [
        draw_face(3, Pose(mouth=mouth, x=0.03 * mouth), height=128, width=128, oversampling=2) for mouth in mouths
    ]
    found = iter([[face(drawing)] for drawing in drawings])
    measured = openings([drawing.image for drawing in drawings], lambda frame: next(found))
    assert agreement(mouths, measured) > 0.98


def test_a_frame_without_a_face_has_no_opening() -> None:
    drawing = draw_face(3, Pose(mouth=1), height=128, width=128, oversampling=1)
    found = iter([[face(drawing)], [], [face(drawing)]])
    assert np.isnan(openings([drawing.image] * 3, lambda frame: next(found))).tolist() == [False, True, False]


def test_agreement_is_the_correlation_of_what_is_known() -> None:
    first, second = np.array([0.0, 1.0, 2.0, 0.5, 1.5]), np.array([0.0, 0.9, 2.1, 0.7, np.nan])
    assert agreement(first, second) == pytest.approx(np.corrcoef(first[:4], second[:4])[0, 1])
    assert agreement(first, 3 - first) == pytest.approx(-1)


@pytest.mark.parametrize("seen", [[0.3] * 4, [np.nan] * 4, [np.nan, np.nan, np.nan, 0.2]])
def test_what_does_not_vary_agrees_with_nothing(seen: list[float]) -> None:
    assert np.isnan(agreement(np.arange(4.0), np.array(seen)))


def test_moments_are_open_and_closed_mouths_by_turns(heard: NDArray[np.float32]) -> None:
    shown = moments(heard, COLUMNS // 2)
    assert len(shown) == COLUMNS
    assert shown == sorted(set(shown))
    assert heard[shown[::2]].min() > 0.6
    assert heard[shown[1::2]].max() < 0.1


@pytest.mark.parametrize("heard", [[0.0], [0.0] * 9, [0.0, 1.0], [1.0, 0.0, 1.0, 0.0]])
def test_short_and_silent_sounds_have_moments_too(heard: list[float]) -> None:
    shown = moments(np.array(heard), 4)
    assert 0 < len(shown) <= 8
    assert set(shown) <= set(range(len(heard)))


# The sheet


def rows_of(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.intp]:
    """Return the rows that contain about this colour."""
    return np.flatnonzero((abs(picture.astype(int) - colour).max(axis=2) < 20).any(axis=1))


def test_a_curve_is_the_higher_the_more_open_the_mouth() -> None:
    charts = [Chart(100, 60, 10) for _ in range(2)]
    for chart, openness in zip(charts, (0.0, 1.0), strict=True):
        chart.seen(np.full(10, openness), [])
    low, high = (rows_of(np.asarray(chart.image()), SEEN) for chart in charts)
    assert high.max() < 15 < 45 < low.min()


def test_a_curve_breaks_where_nothing_is_known() -> None:
    chart = Chart(100, 60, 10)
    chart.seen(np.array([0.5] * 4 + [np.nan] * 3 + [0.5] * 3), [])
    columns = rows_of(np.asarray(chart.image()).swapaxes(0, 1), SEEN)
    assert {10, 30, 80, 90} <= set(columns)
    assert not set(range(40, 70)) & set(columns)


def test_sound_is_drawn_as_loud_as_it_is() -> None:
    loud, quiet = np.sin(np.arange(800.0)), 0.1 * np.sin(np.arange(800.0))
    chart = Chart(200, 60, 20, PAPER)
    chart.waveform(np.concatenate([quiet, loud]), 80)
    inked = (np.asarray(chart.image()) != PAPER).any(axis=2).sum(axis=0)
    assert inked[:100].max() < 12 < 40 < inked[100:].mean()


def test_a_sheet_shows_the_frames_of_the_moments(speech: Recording) -> None:
    shown = [3, 30, 60]
    frames = np.full((81, 16, 16, 3), 255, np.uint8)
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    frames[shown] = np.array(colours, np.uint8)[:, None, None]
    row = Row(("scene", "words"), np.full((8, 8, 3), (0, 200, 200), np.uint8), frames, np.full(81, np.nan))
    sound = Sound(speech, np.linspace(0, 1, 81), FPS, shown)
    sheet = np.asarray(contact_sheet("heading", "note", sound, {"first": [row], "second": [row, row]}))
    assert sheet.shape[1] == WIDTH
    for colour in (*colours, (0, 200, 200)):
        assert (sheet == colour).all(axis=2).sum() == 3 * CELL * CELL
    columns = [np.flatnonzero((sheet == colour).all(axis=2).any(axis=0)).min() for colour in colours]
    assert columns == sorted(columns)


# The whole demo


def test_a_video_of_each_scene_and_portrait_and_a_sheet_are_made(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("demo.__main__.CONFIG", GenerationConfig(steps=1, overlap=1, fps=1, guidance_scale=1.0))
    out = tmp_path / "out"
    assert main(["--bundle", str(tiny_bundle), "--output", str(out)]) == 0
    told = capsys.readouterr().out
    for path in (out / f"{name}_{scene.name}.mp4" for name in SITTERS for scene in SCENES):
        frames, rate, samples, sound_rate = read_back(path)
        assert (len(frames), rate) == (4, 1)
        assert samples / sound_rate == pytest.approx(3.24, abs=0.1)
        assert f"  {path}\n" in told
    assert load_image(out / "sheet.png").shape[1] == WIDTH
    assert "Generated in " in told


def test_a_missing_bundle_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(tmp_path / "none"), "--output", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert str(tmp_path / "none") in told.err
    assert "Made:" not in told.out
