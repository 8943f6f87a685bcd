"""Keypoint maps equal those that the pose guider was trained with, for any finite points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import GOLDEN
from vexpress_rt.errors import KeypointError
from vexpress_rt.face.keypoint_map import draw_keypoint_map

FACE = np.array([[190, 230], [310, 232], [250, 300]], np.float32)


@pytest.mark.parametrize("name", ["kps_images_512", "tiny_square", "tiny_wide"])
def test_keypoint_maps_equal_those_of_the_reference(name: str) -> None:
    golden = np.load(GOLDEN / f"{name}.npz")
    expected = golden["images" if name == "kps_images_512" else "kps_images"]
    drawn = [draw_keypoint_map(points, *expected.shape[1:3]) for points in golden["keypoints"]]
    np.testing.assert_array_equal(drawn, expected)


def test_points_outside_the_picture_draw_nothing() -> None:
    assert not draw_keypoint_map(FACE + 1000, 64, 96).any()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6))
def test_no_finite_point_is_too_far_to_draw(values: list[float]) -> None:
    drawn = draw_keypoint_map(np.array(values, np.float32).reshape(3, 2), 64, 96)
    assert drawn.shape == (64, 96, 3)
    assert drawn.dtype == np.uint8


def test_points_a_thousand_pictures_away_are_drawn_where_they_are() -> None:
    far = np.array([[50_000, 32], [-50_000, 32], [48, 32]], np.float32)
    drawn = draw_keypoint_map(far, 64, 96)
    assert (drawn[32, 60:] == (153, 0, 0)).all()
    assert (drawn[32, :36] == (0, 153, 0)).all()


def test_a_point_that_is_not_finite_is_not_drawn() -> None:
    with pytest.raises(KeypointError, match="NaN"):
        draw_keypoint_map(np.full((3, 2), np.nan, np.float32), 64, 64)
