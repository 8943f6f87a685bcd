"""One face is tracked through a driving video, with short gaps interpolated."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tests.support.faces import face_at
from vexpress_rt.errors import NoFaceError
from vexpress_rt.face.tracker import track_faces

FPS = Fraction(30)
SIZE = (480, 640)


def nose_positions(track):
    return track.points[:, 2, 0].tolist()


def test_a_track_has_the_first_three_points_of_each_frames_face():
    faces = [face_at(100 + f, 80) for f in range(4)]
    track = track_faces([[face] for face in faces], FPS, SIZE)
    np.testing.assert_array_equal(track.points, [face.keypoints[:3] for face in faces])
    assert (track.fps, track.size) == (FPS, SIZE)


def test_of_several_faces_the_largest_is_chosen_first_and_then_the_nearest():
    found = [[face_at(300, 100, 15), face_at(100, 100, 30)]]
    found += [[face_at(300 - 5 * f, 100, 60), face_at(100 + 5 * f, 100, 10)] for f in range(1, 10)]
    assert nose_positions(track_faces(found, FPS, SIZE)) == [100 + 5 * f for f in range(10)]


def test_a_gap_of_half_a_second_is_interpolated():
    found = [[face_at(100, 80)], *[[]] * 15, [face_at(116, 80)]]
    assert nose_positions(track_faces(found, FPS, SIZE)) == pytest.approx(range(100, 117))


def test_frames_without_a_face_at_the_ends_hold_the_nearest_face():
    found = [*[[]] * 15, [face_at(100, 80)], [face_at(110, 80)], *[[]] * 15]
    assert nose_positions(track_faces(found, FPS, SIZE)) == [100] * 16 + [110] * 16


def test_gaps_longer_than_half_a_second_are_named_by_their_frames():
    face = [face_at(100, 80)]
    found = [face] * 12 + [[]] * 29 + [face] * 3 + [[]] * 15 + [face] + [[]] * 16
    with pytest.raises(NoFaceError, match=r"in frames 12-40, 60-75 of the driving video's 76"):
        track_faces(found, FPS, SIZE)


def test_a_gap_at_the_start_longer_than_half_a_second_is_named():
    with pytest.raises(NoFaceError, match=r"in frames 0-15 of"):
        track_faces([*[[]] * 16, [face_at(100, 80)]], FPS, SIZE)


def test_half_a_second_is_counted_exactly_at_broadcast_rates():
    rate = Fraction(30000, 1001)  # half a second is 14.985 frames
    with pytest.raises(NoFaceError, match="1-15"):
        track_faces([[face_at(0, 0)], *[[]] * 15, [face_at(9, 9)]], rate, SIZE)


@pytest.mark.parametrize("count", [0, 3])
def test_a_video_without_any_face_is_an_error(count):
    with pytest.raises(NoFaceError, match=f"any of the driving video's {count} frames"):
        track_faces([[]] * count, FPS, SIZE)


def test_frames_after_the_needed_part_of_a_driving_video_are_not_checked():
    found = [[face_at(frame, 40)] for frame in range(30)] + [[]] * 16
    assert len(track_faces(found, Fraction(30), (64, 64), needed=30).points) == 46
    with pytest.raises(NoFaceError, match="30-45"):
        track_faces(found, Fraction(30), (64, 64))
