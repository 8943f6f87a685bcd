"""Frames compared with drawings: equal ones reach the best figures, and each fault is found by its measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from export.pocket.evaluate.cases import Case
from export.pocket.evaluate.measuring import EVERY
from export.pocket.evaluate.pictures import (
    BALD,
    FEATURES,
    NONE,
    Pictures,
    common_kinds,
    expected_pose,
    flicker,
    gradient_energy,
    hair_overlap,
    measure_pictures,
    psnr,
    ssim,
    strength,
)
from export.pocket.evaluate.subjects import FIRST, Subject, draw, make_subject
from export.pocket.evaluate.video_sources import draw_case
from export.pocket.faces import Person, Pose, random_person

Frames = NDArray[np.uint8]
LENGTH = EVERY + 1


def person_with(test: Callable[[Person], bool]) -> Person:
    return next(person for seed in range(FIRST, FIRST + 500) if test(person := random_person(seed)))


def video(person: Person, held: bool = False) -> Case:
    """The person nods and blinks."""
    subject = replace(subject_of(person), person=person)
    poses = tuple(Pose(pitch=0.0 if held else 0.03 * i, mouth=0.2 * i, blink=0.5) for i in range(LENGTH))
    points = np.stack([subject.draw(pose).keypoints for pose in poses])
    return Case(
        "pose",
        subject,
        np.zeros(9, np.float32),
        0,
        person,
        poses,
        points,
        None if held else "keypoints",
        np.zeros(LENGTH),
    )


def subject_of(person: Person) -> Subject:
    return make_subject(next(seed for seed in range(FIRST, FIRST + 500) if random_person(seed) == person))


def at_rest(case: Case) -> Frames:
    return draw_case(replace(case, poses=tuple(map(expected_pose, case.poses))))


def changed(person: Person, name: str, kind: str) -> Person:
    values: dict[str, Any] = {name: kind}
    return replace(person, **values)


@pytest.fixture(scope="module")
def case() -> Case:
    return video(person_with(lambda person: person.glasses != NONE and person.style == "long"))


@pytest.fixture(scope="module")
def right(case: Case) -> Pictures:
    return measure_pictures(case, at_rest(case))


def test_the_drawings_themselves_are_perfect(right: Pictures) -> None:
    np.testing.assert_allclose(right.psnr, 58.92, atol=0.01)
    np.testing.assert_allclose(right.ssim, 1)
    np.testing.assert_allclose(right.sharpness, 1)
    np.testing.assert_allclose(right.flicker, 0, atol=0.002)  # of what moves and comes back in between
    np.testing.assert_array_equal(right.hair, 1)
    assert len(right.psnr) == len(right.flicker) + 1 == 2
    assert all(found.all() and len(found) == 2 for found in right.looks.values())


def test_eyes_that_blink_or_do_not_are_as_good(case: Case, right: Pictures) -> None:
    blinking = measure_pictures(replace(case, poses=tuple(map(expected_pose, case.poses))), at_rest(case))
    np.testing.assert_array_equal(blinking.psnr, right.psnr)


def test_psnr_is_that_of_the_error() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    assert psnr(image + 10, image) == pytest.approx(20 * np.log10(255 / 10), abs=1e-4)


def test_ssim_is_that_of_its_definition() -> None:
    """Weighted sums over one window of 11 x 11 pixels, which is the whole image."""
    rng = np.random.default_rng(0)
    x, y = (np.repeat(rng.integers(0, 256, (11, 11, 1)), 3, axis=2).astype(np.uint8) for _ in range(2))
    bell = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    weights = np.outer(bell, bell) / bell.sum() ** 2
    a, b = x[..., 0].astype(float), y[..., 0].astype(float)
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    assert ssim(x, y) == pytest.approx(index, abs=1e-4)


def test_blurred_frames_are_less_sharp(case: Case) -> None:
    soft = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in at_rest(case)])
    found = measure_pictures(case, soft)
    assert found.sharpness.max() < 0.5
    assert found.ssim.max() < 0.97
    assert all(looks.all() for looks in found.looks.values())
    assert gradient_energy(soft[0]) > 0


def test_noise_is_flicker(case: Case) -> None:
    frames = at_rest(case)
    noise = np.random.default_rng(0).normal(0, 4, frames.shape)
    found = measure_pictures(case, np.clip(frames + noise, 0, 255).astype(np.uint8))
    assert found.flicker[0] == pytest.approx(4 * 2 / np.sqrt(np.pi), rel=0.05)


def test_what_moves_in_the_drawings_is_no_flicker(case: Case) -> None:
    moving = at_rest(case)
    assert np.abs(np.diff(moving.astype(int), axis=0)).max() > 30
    assert flicker(moving, moving[0], moving[-1]) < 0.002


def test_nothing_still_has_no_flicker() -> None:
    black, white = np.zeros((2, 8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert np.isnan(flicker(black, black[0], white))


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_that_is_lost_or_added_is_found(name: str) -> None:
    kind = common_kinds(name)[0]
    has = person_with(lambda person: getattr(person, name) == kind)
    for true, false in ((has, changed(has, name, NONE)), (changed(has, name, NONE), has)):
        truth = replace(video(has, held=True), person=true)
        frames = at_rest(replace(truth, person=false))
        assert measure_pictures(truth, at_rest(truth)).looks[name].all()
        assert not measure_pictures(truth, frames).looks[name].any()
        faint = (0.9 * at_rest(truth).astype(float) + 0.1 * frames).round().astype(np.uint8)
        assert measure_pictures(truth, faint).looks[name].all()


def test_a_trace_of_glasses_is_found() -> None:
    case = video(person_with(lambda person: person.glasses == NONE), held=True)
    glasses = at_rest(replace(case, person=changed(case.person, "glasses", common_kinds("glasses")[0])))
    trace = (0.6 * at_rest(case).astype(float) + 0.4 * glasses).round().astype(np.uint8)
    assert not measure_pictures(case, trace).looks["glasses"].any()


def test_a_feature_that_no_drawing_shows_is_not_judged(case: Case) -> None:
    frame = at_rest(case)[0]
    assert strength(frame, frame, frame) is None


@pytest.mark.parametrize("name", FEATURES)
def test_common_kinds_are_as_many_as_are_looked_for(name: str) -> None:
    kinds = common_kinds(name)
    assert len(set(kinds) - {NONE}) == len(kinds) == FEATURES[name].kinds


def test_hair_of_another_style_overlaps_less(case: Case) -> None:
    pose = expected_pose(case.poses[0])
    person = case.person
    drawing, bald, short, soft = (
        draw(person, pose).image, draw(replace(person, style=BALD), pose).image,
        draw(replace(person, style="short"), pose).image, cv2.GaussianBlur(draw(person, pose).image, (0, 0), 1.0),
    )  # fmt: skip
    assert hair_overlap(np.asarray(soft, np.uint8), drawing, bald) > 0.9
    assert hair_overlap(short, drawing, bald) < 0.75  # hair is missing
    assert hair_overlap(drawing, short, bald) < 0.75  # and here it is too much
    assert hair_overlap(bald, drawing, bald) == 0
    assert np.isnan(hair_overlap(drawing, bald, bald))
