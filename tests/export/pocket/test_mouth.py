"""Drawn mouths."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.pocket.faces import Person, Pose, draw_face, keypoints, random_person
from export.pocket.faces.canvas import Canvas
from export.pocket.faces.drawing_context import DrawingContext
from export.pocket.faces.mouth import lip_edges
from export.pocket.faces.portrait import face_shape
from export.pocket.faces.poses import Head
from tests.support.drawings import BEARDED, POSES, SEEDS, small


def changed(first: Pose, second: Pose, person: Person | int = 0) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Which pixels of a drawing two poses see differently, (192, 192), and the keypoints of both."""
    pictures = [small(person, pose, 192) for pose in (first, second)]
    who = random_person(person) if isinstance(person, int) else person
    return abs(pictures[0] - pictures[1]).max(axis=2) > 3, keypoints(who, first, 192, 192)


@pytest.mark.parametrize(
    "mouth", [Pose(mouth=1), Pose(mouth=1, width=1), Pose(mouth=1, rounding=1), Pose(mouth=0.3, width=-1)]
)
@pytest.mark.parametrize("person", [0, BEARDED])
def test_talking_changes_nothing_above_the_nose(person: Person | int, mouth: Pose) -> None:
    difference, points = changed(Pose(), mouth, person)
    assert difference.any()
    assert np.flatnonzero(difference.any(axis=1)).min() > points[2, 1]


@pytest.mark.parametrize("shape", [Pose(width=1), Pose(width=-1), Pose(rounding=1)])
def test_the_mouths_shape_changes_only_the_mouth(shape: Pose) -> None:
    difference, (left, right, nose) = changed(Pose(), shape)
    rows, columns = (np.flatnonzero(difference.any(axis=axis)) for axis in (1, 0))
    between_eyes = right[0] - left[0]
    assert nose[1] < rows.min() < rows.max() < nose[1] + 1.2 * between_eyes
    assert left[0] - 0.3 * between_eyes < columns.min() < columns.max() < right[0] + 0.3 * between_eyes


@given(seed=SEEDS, pose=POSES)
@example(seed=0, pose=Pose(yaw=0.45, pitch=0.3, roll=0.4, mouth=1, width=1))
@example(seed=0, pose=Pose(yaw=-0.45, pitch=-0.3, mouth=1, rounding=1))
def test_lips_stay_on_the_face(seed: int, pose: Pose) -> None:
    ctx = DrawingContext(Canvas(1, 1, 1), Head(pose, 128, 128), random_person(seed), pose)
    outlines = [shape.astype(np.float32) for shape in face_shape(ctx)]
    lips = lip_edges(ctx)
    for x, y in ctx.head.place(np.concatenate([lips.top, lips.bottom]), lips.lift).tolist():
        assert max(cv2.pointPolygonTest(outline, (x, y), True) for outline in outlines) > 0


@given(seed=SEEDS, mouth=st.floats(0, 1), width=st.floats(-1, 1), rounding=st.floats(0, 1))
def test_the_lips_never_cross(seed: int, mouth: float, width: float, rounding: float) -> None:
    pose = Pose(mouth=mouth, width=width, rounding=rounding)
    lips = lip_edges(DrawingContext(Canvas(1, 1, 1), Head(pose, 128, 128), random_person(seed), pose))
    rows = np.stack([lips.top, lips.upper, lips.lower, lips.bottom])[..., 1]
    assert (np.diff(rows, axis=0) > -1e-9).all()


def test_a_mouth_opens_widens_and_rounds() -> None:
    person = random_person(0)

    def lips(pose: Pose) -> tuple[float, float]:
        edges = lip_edges(DrawingContext(Canvas(1, 1, 1), Head(pose, 128, 128), person, pose))
        return edges.gap, edges.half_width

    assert lips(Pose(mouth=1))[0] > lips(Pose(mouth=0.5))[0] > lips(Pose())[0] == 0
    assert lips(Pose(width=1))[1] > lips(Pose())[1] > lips(Pose(width=-1))[1]
    assert lips(Pose(rounding=1))[1] < 0.8 * lips(Pose())[1]


def test_an_open_mouth_shows_teeth_and_dark() -> None:
    drawing = draw_face(0, Pose(mouth=1), height=256, width=256, oversampling=2)
    x, y = drawing.keypoints[2].round().astype(int)
    inside = drawing.image[y + 10 : y + 60, x - 4 : x + 5].astype(int)
    assert inside.min(axis=2).max() > 190
    assert inside.max(axis=2).min() < 80
