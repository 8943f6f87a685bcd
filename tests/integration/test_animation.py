"""README.md's animation: its drawing, and the shipped file."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.animation import CELL, COLUMNS, GAP, HEAD, INSET, WIDTH, column_left, draw_pictures, main
from demo.charts import SEEN
from demo.inputs import SPEECH, Inputs, make_inputs
from demo.scenes import SCENES, Take

ROOT = Path(__file__).parents[2]
FPS = 2
COLOURS = (40, 120, 200)  # of the frames of each scene


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"), SPEECH, (64, 64), Fraction(FPS))


@pytest.fixture(scope="module")
def pictures(inputs: Inputs) -> list[np.ndarray]:
    """Pictures of videos with one colour per scene, and of a black driving video."""
    length = inputs.speech.frame_count(Fraction(FPS))
    takes = [
        Take(sitter, scene, Path(), np.zeros((64, 64, 3), np.uint8), np.full((length, 64, 64, 3), colour, np.uint8), 0)
        for sitter in inputs.sitters
        for scene, colour in zip(SCENES, COLOURS, strict=True)
    ]
    driving = [np.zeros((64, 64, 3), np.uint8)] * (length - 1)  # one frame less than the video
    return [np.asarray(picture) for picture in draw_pictures(inputs, takes, driving, FPS)]


def test_there_is_a_picture_for_each_frame(inputs: Inputs, pictures: list[np.ndarray]) -> None:
    assert len(pictures) == inputs.speech.frame_count(Fraction(FPS))
    assert {picture.shape for picture in pictures} == {pictures[0].shape}
    assert pictures[0].shape[1] == WIDTH


def test_each_scene_is_in_its_column_and_each_sitter_in_a_row(inputs: Inputs, pictures: list[np.ndarray]) -> None:
    assert len(COLUMNS) == 1 + len(SCENES)
    for row in range(len(inputs.sitters)):
        top = HEAD + row * (CELL + GAP)
        for column, colour in enumerate(COLOURS, 1):
            cell = pictures[-1][top : top + CELL, column_left(column) : column_left(column) + CELL]
            assert (cell[: CELL // 2] == colour).all()
            inset = cell[-INSET:, -INSET:]
            assert (inset == (0 if column == len(COLOURS) else colour)).all()


def test_the_position_in_the_sound_moves_to_the_right(pictures: list[np.ndarray]) -> None:
    below = HEAD + 2 * (CELL + GAP)
    places = [np.flatnonzero((picture[below + 1] == SEEN).all(axis=-1)).mean() for picture in pictures]
    assert all(before < after for before, after in pairwise(places))


def test_the_picture_that_ships_moves_at_the_rate_of_the_small_model_and_has_less_than_2_mb() -> None:
    path = ROOT / "docs" / "talking.webp"
    assert path.stat().st_size < 2_000_000
    with Image.open(path) as picture:
        assert (picture.width, picture.n_frames) == (WIDTH, 81)
        frames = []
        for index in (0, 40):
            picture.seek(index)
            picture.load()
            assert picture.info["duration"] == 40  # ms
            frames.append(np.asarray(picture.convert("RGB")).astype(int))
    assert np.abs(frames[0] - frames[1]).mean() > 1


def test_a_missing_bundle_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out.webp"), "--bundle", str(tmp_path / "nothing")]) == 1
    assert "nothing is not a folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
