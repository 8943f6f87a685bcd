"""Retargeting: the motion of one face, fitted to another. (docs/model.md, stage 5.)"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.factories import rising
from tests.support.paths import GOLDEN
from vexpress_rt.config import RETARGET_MODES
from vexpress_rt.errors import ConfigError, KeypointError, NoFaceError
from vexpress_rt.face.retargeting import retarget

RETARGETED = np.load(GOLDEN / "retarget.npz")
FACE = np.array([[190, 230], [310, 232], [250, 300]], np.float32)


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("mode", ["offset", "naive"])
def test_retargeting_with_upstreams_anchor_equals_that_of_the_reference(case: int, mode: str) -> None:
    target, reference = RETARGETED[f"{case}/target"], RETARGETED[f"{case}/reference"]
    result = retarget(target, reference, f"{mode}_retarget", upstream_anchor=True)
    np.testing.assert_allclose(result, RETARGETED[f"{case}/{mode}"], atol=1e-3)


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("anchor", ["upstream", "nearest"])
def test_in_the_anchor_frame_the_eyes_are_as_far_apart_as_the_references(case: int, anchor: str) -> None:
    target, reference = RETARGETED[f"{case}/target"], RETARGETED[f"{case}/reference"]
    frame = int(RETARGETED[f"{case}/{anchor}_anchor"])
    moved = retarget(target, reference, "naive_retarget", upstream_anchor=anchor == "upstream")
    scale = (moved[5] - moved[0]) / (target[5] - target[0])
    apart = np.linalg.norm(target[frame, 1] - target[frame, 0])
    assert scale[:, 0] * apart == pytest.approx(np.linalg.norm(reference[1] - reference[0]), rel=1e-3)


def test_naive_retargeting_starts_on_the_references_nose() -> None:
    result = retarget(RETARGETED["2/target"], FACE, "naive_retarget")
    np.testing.assert_allclose(result[0, 2], FACE[2], atol=1e-4)


def test_offset_retargeting_keeps_the_references_shape() -> None:
    result = retarget(RETARGETED["2/target"], FACE, "offset_retarget")
    np.testing.assert_allclose(result - result[:, 2:], np.broadcast_to(FACE - FACE[2], result.shape), atol=1e-4)
    np.testing.assert_allclose(result[0], FACE, atol=1e-4)


def test_fixing_the_face_holds_the_reference_still() -> None:
    np.testing.assert_array_equal(retarget(rising(7), FACE, "fix_face"), np.repeat(FACE[None], 7, axis=0))


@pytest.mark.parametrize("reference", [FACE, None])
def test_without_retargeting_the_target_stays_and_needs_no_face_in_the_photo(reference: Any) -> None:
    np.testing.assert_array_equal(retarget(rising(7), reference, "no_retarget"), rising(7))


@pytest.mark.parametrize("mode", RETARGET_MODES[1:])
def test_retargeting_needs_a_face_in_the_photo(mode: str) -> None:
    with pytest.raises(NoFaceError, match="no_retarget"):
        retarget(rising(7), None, mode)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="naive_retarget"):
        retarget(rising(7), FACE, "naive")


COINCIDENT_EYES = np.array([[250, 230], [250, 230], [250, 300]], np.float32)
NOSE_BETWEEN_EYES = np.array([[190, 230], [310, 230], [250, 230]], np.float32)


@pytest.mark.parametrize("face", [COINCIDENT_EYES, NOSE_BETWEEN_EYES])
@pytest.mark.parametrize("mode", ["offset_retarget", "naive_retarget"])
def test_points_that_form_no_triangle_are_an_error_and_not_infinite(face: Any, mode: str) -> None:
    with pytest.raises(KeypointError, match=r"frame \d+ of the driving keypoints"):
        retarget(np.repeat(face[None], 3, axis=0), FACE, mode)
    with pytest.raises(KeypointError, match="the photo's face"):
        retarget(np.repeat(FACE[None], 3, axis=0), face, mode)


def test_a_frame_that_forms_no_triangle_is_never_the_anchor() -> None:
    track = np.stack([FACE * 2, COINCIDENT_EYES, FACE * 2])
    result = retarget(track, COINCIDENT_EYES - [[10, 0], [-10, 0], [0, 0]], "naive_retarget")
    assert np.isfinite(result).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from(["offset_retarget", "naive_retarget"]), st.booleans())
def test_retargeting_a_face_to_itself_changes_nothing_at_first(seed: int, mode: str, upstream_anchor: bool) -> None:
    face = FACE + np.random.default_rng(seed).uniform(-20, 20, (3, 2)).astype(np.float32)
    result = retarget(np.repeat(face[None], 4, axis=0), face, mode, upstream_anchor)
    np.testing.assert_allclose(result, np.repeat(face[None], 4, axis=0), atol=1e-3)
