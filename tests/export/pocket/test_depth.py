from dataclasses import replace

import numpy as np
import pytest

from export.pocket.faces import Pose, draw_depth, keypoints, random_person

SIZE = {"height": 128, "width": 128}
PERSON = random_person(3)


@pytest.mark.parametrize("pose", [Pose(), Pose(yaw=0.45), Pose(pitch=0.2, roll=-0.4), Pose(scale=0.8, x=0.1, y=-0.05)])
def test_nose_is_nearest_where_the_keypoints_have_it(pose):
    depth = draw_depth(PERSON, pose, **SIZE)
    x, y = keypoints(PERSON, pose, **SIZE)[2].astype(int)
    assert depth.dtype == np.float32
    assert depth.shape == (128, 128)
    assert depth[y, x] > depth.max() - 0.02
    tip = 0.35 + 0.42 * 1.19 * pose.scale * np.cos(pose.yaw)
    assert depth.max() == pytest.approx(tip, abs=0.05)


def test_background_is_zero_and_shoulders_are_behind_the_head():
    depth = draw_depth(PERSON, Pose(), **SIZE)
    assert (depth[0] == 0).all()
    assert 0.2 < depth[-1, 64] < 0.4 < depth[110, 64] < depth[60, 64]  # shoulders, neck, forehead
    assert depth[depth > 0].min() > 0.1


def test_depth_is_within_its_range_and_grows_with_the_scale():
    near = draw_depth(PERSON, Pose(scale=1.2, pitch=-0.3), **SIZE)
    far = draw_depth(PERSON, Pose(scale=0.8, pitch=-0.3), **SIZE)
    assert far.max() + 0.1 < near.max() < 1
    assert (far > 0).sum() < (near > 0).sum()


def test_the_expression_does_not_matter():
    speaking = replace(Pose(), mouth=1.0, width=0.5, rounding=0.5, blink=1.0)
    np.testing.assert_array_equal(draw_depth(3, Pose(), **SIZE), draw_depth(PERSON, speaking, **SIZE))
