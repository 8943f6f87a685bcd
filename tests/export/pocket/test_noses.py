"""The measured position of a nose in a picture, compared with the drawn position."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.pocket.faces import Drawing, Pose, draw_face, nose_place
from export.pocket.faces.noses import REACH

SIZE = 128


def draw(seed: int, pose: Pose) -> Drawing:
    return draw_face(seed, pose, height=SIZE, width=SIZE, oversampling=2)


def error(seed: int, shown: Pose, example: Pose) -> float:
    """Pixels between the nose that is drawn as `shown` and the one that is found with a drawing of `example`."""
    drawing = draw(seed, shown)
    return float(np.linalg.norm(nose_place(drawing.image, draw(seed, example)) - drawing.keypoints[2]))


@pytest.mark.parametrize("seed", range(1000, 1004))
def test_a_moved_nose_is_found_to_parts_of_a_pixel(seed: int) -> None:
    asked = Pose(yaw=0.1, pitch=-0.05, roll=0.05)
    assert error(seed, replace(asked, x=0.027, y=-0.031, mouth=0.6), asked) < 0.25


@pytest.mark.parametrize("seed", range(1000, 1004))
def test_the_nose_is_found_where_the_head_is_turned_otherwise(seed: int) -> None:
    asked = Pose(yaw=-0.1, pitch=0.05)
    shown = replace(asked, yaw=0.03, pitch=-0.02, roll=0.05, scale=1.04, x=0.01, mouth=0.8, blink=1.0)
    assert error(seed, shown, asked) < 0.7


def test_a_nose_out_of_reach_is_not_found() -> None:
    unit = 0.21 * SIZE
    assert error(1000, Pose(x=2 * REACH * unit / SIZE), Pose()) > 0.5 * REACH * unit


def test_a_picture_that_shows_nothing_gives_a_place_within_reach() -> None:
    example = draw(1000, Pose())
    place = nose_place(np.full((SIZE, SIZE, 3), 90, np.uint8), example)
    assert np.abs(place - example.keypoints[2]).max() <= REACH * 0.21 * SIZE + 1
