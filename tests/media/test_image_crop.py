"""Crops keep the face, have the bundle's aspect, and leave a picture of that aspect unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vexpress_rt.errors import ConfigError, ImageError, KeypointError
from vexpress_rt.media.image import apply_crop, face_crop


def gradient(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth picture without symmetry, so that any turn, flip or channel swap shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 120 // (height + width)], -1).astype(np.uint8)


sides = st.integers(16, 3000)


@given(source=st.tuples(sides, sides), size=st.tuples(sides, sides), face=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_face_crop_is_the_largest_of_its_aspect_and_as_near_to_the_face_as_it_can_be(
    source: tuple[int, int], size: tuple[int, int], face: tuple[float, float]
) -> None:
    height, width = source
    centre = (face[0] * width, face[1] * height)
    crop = face_crop(source, size, np.array([centre] * 3, np.float32), "face")
    assert crop.left >= 0
    assert crop.top >= 0
    assert crop.left + crop.width <= width + 1e-6
    assert crop.top + crop.height <= height + 1e-6
    assert crop.width * size[0] == pytest.approx(crop.height * size[1], rel=1e-9)
    assert crop.width == width or crop.height == height
    for middle, start, extent, limit in (
        (centre[0], crop.left, crop.width, width),
        (centre[1], crop.top, crop.height, height),
    ):
        wanted = min(max(middle, extent / 2), limit - extent / 2)
        assert start + extent / 2 == pytest.approx(wanted, abs=1e-2)


def test_without_keypoints_the_middle_is_taken() -> None:
    crop = face_crop((100, 300), (64, 64), None, "face")
    assert (crop.left, crop.top, crop.width, crop.height) == (100, 0, 100, 100)


@pytest.mark.parametrize("source", [(512, 512), (333, 333), (4000, 4000)])
def test_a_picture_of_the_bundles_aspect_is_taken_whole_wherever_the_face_is(source: tuple[int, int]) -> None:
    points = np.array([[1, 1], [9, 1], [5, 6]], np.float32)
    crop = face_crop(source, (512, 512), points, "face")
    assert (crop.left, crop.top, crop.width, crop.height) == (0, 0, source[1], source[0])


def test_without_cropping_the_whole_picture_is_stretched() -> None:
    crop = face_crop((100, 300), (64, 64), np.full((3, 2), 10, np.float32), "none")
    assert (crop.left, crop.top, crop.width, crop.height) == (0, 0, 300, 100)


@pytest.mark.parametrize("mode", ["face", "none"])
def test_a_face_wholly_outside_the_picture_is_refused(mode: str) -> None:
    points = np.array([[-5, 10], [10, -1], [301, 50]], np.float32)
    with pytest.raises(KeypointError, match="wholly outside the picture of 300 x 100"):
        face_crop((100, 300), (64, 64), points, mode)


def test_a_face_partly_outside_is_kept_as_near_as_possible() -> None:
    points = np.array([[-50, 10], [-10, 10], [5, 50]], np.float32)
    assert face_crop((100, 300), (64, 64), points, "face").left == 0


@pytest.mark.parametrize("points", [np.zeros((5, 2), np.float32), np.full((3, 2), np.nan, np.float32)])
def test_malformed_keypoints_are_refused(points: np.ndarray) -> None:
    with pytest.raises(KeypointError, match=r"shape \(5, 2\)|NaN"):
        face_crop((100, 300), (64, 64), points, "face")


def test_an_unknown_crop_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of face, none"):
        face_crop((100, 300), (64, 64), None, "centre")


@pytest.mark.parametrize("size", [(64, 64), (24, 100), (40, 56)])
def test_applying_a_whole_crop_is_pillows_bicubic_resize(size: tuple[int, int]) -> None:
    crop = face_crop((40, 56), size, None, "none")
    expected = Image.fromarray(gradient()).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(apply_crop(gradient(), crop), np.asarray(expected))


def test_applying_a_crop_of_equal_size_changes_nothing() -> None:
    np.testing.assert_array_equal(apply_crop(gradient(), face_crop((40, 56), (40, 56), None, "face")), gradient())


def test_applying_a_crop_without_scaling_cuts_pixels_out() -> None:
    points = np.full((3, 2), (33, 20), np.float32)
    crop = face_crop((40, 56), (40, 40), points, "face")
    np.testing.assert_array_equal(apply_crop(gradient(), crop), gradient()[:, 13:53])


def test_points_follow_the_picture_through_the_crop() -> None:
    picture = np.zeros((90, 200, 3), np.uint8)
    picture[40:44, 150:154] = 255
    crop = face_crop((90, 200), (180, 120), np.full((3, 2), (152, 42), np.float32), "face")
    rows, columns = np.nonzero(apply_crop(picture, crop)[..., 0] > 128)
    x, y = crop.to_cropped(np.array([152, 42], np.float32))
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx((x, y), abs=0.6)


def test_a_crop_for_another_picture_is_refused() -> None:
    with pytest.raises(ImageError, match="crop made for 41 x 56"):
        apply_crop(gradient(), face_crop((41, 56), (64, 64), None, "face"))
