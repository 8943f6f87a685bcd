"""A keypoint track accepts any unambiguous form of its values, and refuses others when it is created."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.support.scenes import FAST, photo, speech
from vexpress_rt.errors import KeypointError
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.types import FARTHEST_POINT, KeypointTrack

FACE = [[1, 2], [3, 4], [5, 6]]


class NoArray:
    """An object whose conversion by NumPy fails."""

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        raise LookupError("nothing here")


def endless() -> Iterator[list[list[int]]]:
    while True:
        yield FACE


@pytest.mark.parametrize("points", [[FACE], ((*map(tuple, FACE),),), [np.array(FACE)], np.array([FACE], np.int8)])
def test_lists_and_arrays_of_any_real_type_become_float32(points: Any) -> None:
    track = KeypointTrack(points)
    assert track.points.dtype == np.float32
    np.testing.assert_array_equal(track.points, [FACE])


def test_float32_points_are_not_copied() -> None:
    points = np.array([FACE], np.float32)
    assert KeypointTrack(points).points is points


ODD = {
    "a set": {1},
    "a dict": {"points": FACE},
    "a generator": endless(),
    "text": "points",
    "bytes": b"points",
    "none": None,
    "none inside": [FACE, None],
    "texts inside": [[["1", "2"], ["3", "4"], ["5", "6"]]],
    "an object array": np.full((1, 3, 2), None),
    "booleans": np.ones((1, 3, 2), bool),
    "complex numbers": np.ones((1, 3, 2), complex),
    "dates": np.zeros((1, 3, 2), "M8[s]"),
    "no array": NoArray(),
    "no frames": np.zeros((0, 3, 2)),
    "five points": np.zeros((1, 5, 2)),
}


@pytest.mark.parametrize("points", ODD.values(), ids=ODD)
def test_invalid_points_are_refused(points: Any) -> None:
    with pytest.raises(KeypointError, match=r"expected|pass"):
        KeypointTrack(points)


@pytest.mark.parametrize("points", [ODD[name] for name in ODD if name not in ("none", "text")])
def test_the_generator_refuses_them_too(generator: Generator, points: Any) -> None:
    with pytest.raises(KeypointError):
        generator.generate(photo(), speech(0.1), keypoints=points, config=FAST)


def test_masked_points_are_not_numbers() -> None:
    points = np.ma.array(np.ones((2, 3, 2)), mask=[[[0, 0]] * 3, [[0, 1]] * 3])
    with pytest.raises(KeypointError, match=r"NaN or infinite in 1 of 2 frames, first in \[1\]"):
        KeypointTrack(points)


@pytest.mark.parametrize("value", [1e7, -3e38])
def test_points_far_from_any_picture_are_refused(value: float) -> None:
    points = np.array([FACE] * 3, np.float32)
    points[1, 2, 0] = value
    with pytest.raises(KeypointError, match=r"pixels from the picture's corner in frames 1; expected at most 1e\+06"):
        KeypointTrack(points)
    points[1, 2, 0] = FARTHEST_POINT
    KeypointTrack(points)


@pytest.mark.parametrize(
    ("fps", "exact"),
    [(25, Fraction(25)), (29.97, Fraction(30000, 1001)), ("30000/1001", Fraction(30000, 1001)), (12.5, Fraction(25, 2)),
     (np.float32(30), Fraction(30)), (np.int64(1), Fraction(1)), (Fraction(25, 3), Fraction(25, 3)), (None, None)],
)  # fmt: skip
def test_a_rate_is_kept_exactly(fps: Any, exact: Fraction | None) -> None:
    assert KeypointTrack([FACE], fps).fps == exact  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fps",
    [
        0,
        -25,
        np.nan,
        np.inf,
        1e-9,
        1e300,
        241,
        "x",
        "",
        "1e2",
        True,
        (64, 64),
        [25],
        np.float16("inf"),
        pytest.param(10**5000, id="huge"),
    ],
)
def test_another_rate_is_refused_with_the_remedy(fps: Any) -> None:
    with pytest.raises(KeypointError, match="give the rate of their pictures, or None"):
        KeypointTrack([FACE], fps)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(4, 5), [4, 5], np.array([4, 5]), (np.int64(4), np.uint8(5))])
def test_a_size_is_kept_as_two_whole_numbers(size: Any) -> None:
    track = KeypointTrack([FACE], size=size)  # type: ignore[arg-type]
    assert track.size == (4, 5)
    assert all(type(side) is int for side in track.size)


@pytest.mark.parametrize(
    "size",
    ["512x512", 512, np.broadcast_to(np.float32(0), 10**12),
     (0, 5), (-4, 5), (10**9, 1), (512.0, 512.0), (512,), (1, 2, 3), (True, 5), (None, 5), {4, 5},
     (np.nan, 5), np.array(5), [[4], 5], pytest.param((10**5000, 5), id="huge"), Fraction(25)],
)  # fmt: skip
def test_another_size_is_refused_with_the_remedy(size: Any) -> None:
    with pytest.raises(KeypointError, match=r"expected \(height, width\) in pixels .* such as \(480, 640\), or None"):
        KeypointTrack([FACE], size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("notes", ["one note", [1], None, 5])
def test_notes_are_strings(notes: Any) -> None:
    with pytest.raises(KeypointError, match="notes"):
        KeypointTrack([FACE], notes=notes)  # type: ignore[arg-type]


def test_a_track_is_frozen_and_can_be_pickled() -> None:
    track = KeypointTrack([FACE], 25, (64, 96), ("a note",))  # type: ignore[arg-type]
    copy = pickle.loads(pickle.dumps(track))
    np.testing.assert_array_equal(copy.points, track.points)
    assert (copy.fps, copy.size, copy.notes) == (25, (64, 96), ("a note",))
    with pytest.raises(FrozenInstanceError):
        track.fps = Fraction(30)  # type: ignore[misc]
