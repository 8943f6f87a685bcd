"""Keypoint tracks are read, checked, and fitted to the length and frame rate of a video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.factories import rising
from tests.support.paths import GOLDEN
from vexpress_rt.config import EXTENSION_MODES
from vexpress_rt.errors import ConfigError, KeypointError
from vexpress_rt.face.keypoint_track import check_inside, fit_length, interpolate, load_keypoints, resample
from vexpress_rt.types import KeypointTrack

RETARGETED = np.load(GOLDEN / "retarget.npz")
FACE = np.array([[190, 230], [310, 232], [250, 300]], np.float32)


def order(points: Any) -> list[float]:
    return points[:, 0, 0].tolist()


# Loading


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_numbers_of_any_real_type_become_a_float32_track(dtype: type) -> None:
    track = load_keypoints(rising(5).astype(dtype))
    np.testing.assert_array_equal(track.points, rising(5))
    assert track.points.dtype == np.float32
    assert (track.fps, track.size) == (None, None)


@pytest.mark.parametrize("source", [list(rising(5)), rising(5).tolist(), tuple(rising(5))])
def test_a_list_of_faces_becomes_a_track(source: Any) -> None:
    np.testing.assert_array_equal(load_keypoints(source).points, rising(5))


def test_a_track_stays_as_it_is() -> None:
    track = KeypointTrack(rising(3), Fraction(25), (64, 64))
    assert load_keypoints(track) is track


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_file_is_read_by_its_path(tmp_path: Path, as_path: type) -> None:
    np.save(tmp_path / "track.npy", rising(5))
    np.testing.assert_array_equal(load_keypoints(as_path(tmp_path / "track.npy")).points, rising(5))


def test_a_complaint_about_a_file_names_it(tmp_path: Path) -> None:
    np.save(tmp_path / "track.npy", rising(5)[:, :2])
    with pytest.raises(KeypointError, match=r"track\.npy.*shape \(5, 2, 2\)"):
        load_keypoints(tmp_path / "track.npy")


@pytest.mark.parametrize("shape", [(3, 2), (0, 3, 2), (4, 3), (4, 2, 3), (4, 68, 2), (1, 4, 3, 2), ()])
def test_points_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(KeypointError, match=r"expected \(frames, 3, 2\)"):
        load_keypoints(np.zeros(shape, np.float32))


@pytest.mark.parametrize("source", [np.zeros((4, 5, 2)), [np.zeros((5, 2))] * 4])
def test_faces_of_five_points_are_refused_with_the_way_out(source: Any) -> None:
    with pytest.raises(KeypointError, match="pass the first three"):
        load_keypoints(source)


def test_the_frame_that_differs_is_named() -> None:
    with pytest.raises(KeypointError, match=r"shape \(2, 2\) in frame 1"):
        load_keypoints([FACE, FACE[:2], FACE])


@pytest.mark.parametrize(
    "source", [[[[1, 2], [3]]], [FACE, None], object(), np.full((2, 3, 2), "x"), [[[[1j] * 2] * 3]]]
)
def test_values_that_are_not_real_numbers_are_refused(source: Any) -> None:
    with pytest.raises(KeypointError):
        load_keypoints(source)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_points_that_are_not_finite_are_refused_with_their_frame(value: float) -> None:
    points = rising(5).astype(np.float64)
    points[3, 1, 0] = value
    with pytest.raises(KeypointError, match=r"first in \[3\]"):
        load_keypoints(points)


def test_a_million_frames_are_enough() -> None:
    with pytest.raises(KeypointError, match="at most 1000000"):
        load_keypoints(np.broadcast_to(np.float32(0), (1_000_001, 3, 2)))


# Inside the picture


def test_a_face_that_touches_the_picture_is_inside() -> None:
    check_inside(np.stack([FACE, FACE - [300, 0], FACE - [-321, 0], FACE - [0, 300]]), (512, 512))


def test_frames_whose_face_lies_outside_are_named() -> None:
    points = np.repeat(FACE[None], 60, axis=0)
    points[12:41] += [400, 0]
    points[50] -= [0, 301]
    with pytest.raises(KeypointError, match=r"512 x 512 .* in frames 12-40, 50 "):
        check_inside(points, (512, 512))


def test_height_and_width_are_not_swapped() -> None:
    check_inside(FACE[None], (231, 191))
    for size in ((230, 191), (231, 190)):
        with pytest.raises(KeypointError, match="outside"):
            check_inside(FACE[None], size)


def test_nan_is_not_inside() -> None:
    with pytest.raises(KeypointError, match="NaN"):
        check_inside(np.full((1, 3, 2), np.nan, np.float32), (512, 512))


# Length and rate


@pytest.mark.parametrize("length", [150, 33])
def test_interpolation_in_time_equals_that_of_the_reference(length: int) -> None:
    result = interpolate(RETARGETED["0/target"], length)
    np.testing.assert_allclose(result, RETARGETED[f"interpolated_{length}"], atol=1e-4)


@pytest.mark.parametrize(
    ("extension", "expected"),
    [
        ("hold", [0, 1, 2, 3, 3, 3, 3, 3, 3, 3]),
        ("loop", [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]),
        ("mirror", [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]),
        ("stretch", [0, 0.1, 0.5, 0.9, 1.3, 1.7, 2.1, 2.5, 2.9, 3]),
    ],
)
def test_a_short_track_is_extended_as_asked(extension: str, expected: list[float]) -> None:
    points, how = fit_length(rising(4), 10, extension)
    assert order(points) == pytest.approx(expected)
    assert how == extension


@pytest.mark.parametrize("extension", EXTENSION_MODES)
def test_a_long_track_is_cut_however_it_would_be_extended(extension: str) -> None:
    points, how = fit_length(rising(6), 4, extension)
    assert order(points) == [0, 1, 2, 3]
    assert how == "cut"


@pytest.mark.parametrize("extension", EXTENSION_MODES)
def test_a_track_of_the_right_length_stays_as_it_is(extension: str) -> None:
    points, how = fit_length(rising(6), 6, extension)
    assert order(points) == [0, 1, 2, 3, 4, 5]
    assert how == "as is"


@given(st.integers(1, 40), st.integers(1, 100), st.sampled_from(EXTENSION_MODES))
def test_every_track_gets_the_length_of_the_video_from_its_own_points(frames: int, length: int, extension: str) -> None:
    points, _ = fit_length(rising(frames), length, extension)
    assert points.shape == (length, 3, 2)
    assert points.dtype == np.float32
    assert points.min() == 0
    assert points.max() <= frames - 1


def test_an_unknown_extension_is_refused() -> None:
    with pytest.raises(ConfigError, match="stretch, hold, loop, mirror"):
        fit_length(rising(4), 10, "bounce")


def test_a_track_that_does_not_know_its_rate_has_that_of_the_video() -> None:
    track = KeypointTrack(rising(4))
    assert resample(track, Fraction(30)) is track


def test_a_track_of_the_videos_rate_stays_as_it_is() -> None:
    track = KeypointTrack(rising(4), Fraction(30))
    assert resample(track, Fraction(30)) is track


@pytest.mark.parametrize(("rate", "expected"), [(50, [0, 0.25, 0.75, 1.25, 1.75, 2]), (Fraction(25, 3), [1])])
def test_a_track_of_another_rate_is_sampled_at_the_middles_of_frames(rate: Fraction, expected: list[float]) -> None:
    track = resample(KeypointTrack(rising(3), Fraction(25), (64, 96)), Fraction(rate))
    assert order(track.points) == expected
    assert (track.fps, track.size) == (rate, (64, 96))


def test_a_long_track_does_not_drift_away_from_its_video() -> None:
    source, rate = Fraction(30000, 1001), Fraction(25)
    track = resample(KeypointTrack(rising(17982), source), rate)  # ten minutes
    frames = np.arange(1, len(track.points) - 1)
    expected = (frames + 0.5) * float(source / rate) - 0.5
    np.testing.assert_allclose(track.points[1:-1, 0, 0], expected, atol=2e-3)
    assert len(track.points) == 15000
