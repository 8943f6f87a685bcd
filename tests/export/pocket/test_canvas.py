"""The canvas that faces are painted on."""

from __future__ import annotations

import numpy as np
import pytest

from export.pocket.faces.canvas import Canvas, curve, ellipse, ribbon, ring


def test_a_shape_covers_as_much_as_its_area() -> None:
    canvas = Canvas(40, 40)
    canvas.fill(ellipse(20, 20, 10, 5), (255, 255, 255))
    assert canvas.image()[..., 0].sum() / 255 == pytest.approx(np.pi * 10 * 5, rel=0.02)


def test_a_blurred_shape_covers_as_much_as_a_sharp_one() -> None:
    canvas = Canvas(90, 90)
    canvas.fill(ellipse(45, 45, 10, 5), (255, 255, 255), soft=8)
    assert canvas.image()[..., 0].max() < 128
    assert canvas.image()[..., 0].sum() / 255 == pytest.approx(np.pi * 10 * 5, rel=0.1)


def test_a_shape_beyond_the_edge_is_cut_off() -> None:
    canvas = Canvas(20, 20)
    canvas.fill(ellipse(0, 10, 5, 5), (255, 255, 255), soft=1)
    canvas.fill(ellipse(60, 10, 5, 5), (255, 255, 255), soft=1)
    columns = canvas.image()[..., 0].max(axis=0)
    assert columns[0] > 200
    assert not columns[12:].any()


def test_a_curve_runs_through_its_points() -> None:
    points = np.array([(0, 0), (3, 5), (9, 4), (7, -2)])
    assert np.array_equal(curve(points, steps=10)[::10], points)
    assert np.array_equal(curve(points, closed=False)[[0, -1]], points[[0, -1]])


def test_shapes_that_overlap_count_once() -> None:
    one, two, both = Canvas(40, 40), Canvas(40, 40), Canvas(40, 40)
    left, right = ellipse(16, 20, 8, 8), ellipse(24, 20, 8, 8)
    one.fill(left, (255, 255, 255))
    two.fill(right, (255, 255, 255))
    both.fill([left, right], (255, 255, 255))
    assert np.array_equal(both.image(), np.maximum(one.image(), two.image()))


def test_no_shapes_paint_nothing() -> None:
    canvas = Canvas(8, 8)
    canvas.fill([], (255, 255, 255))
    assert not canvas.image().any()


def test_paint_stays_within_a_mask() -> None:
    canvas = Canvas(40, 40)
    canvas.fill(ellipse(20, 20, 15, 15), (255, 255, 255), within=canvas.mask(ellipse(20, 20, 5, 5)))
    assert canvas.image()[..., 0].sum() / 255 == pytest.approx(np.pi * 25, rel=0.05)


def test_opacity_is_the_share_of_the_colour() -> None:
    canvas = Canvas(20, 20)
    canvas.fill(ellipse(10, 10, 8, 8), (200, 100, 40), opacity=0.5)
    assert canvas.image()[10, 10].tolist() == [100, 50, 20]


@pytest.mark.parametrize("oversampling", [1, 2, 4])
def test_edges_are_smooth_at_every_oversampling(oversampling: int) -> None:
    canvas = Canvas(20, 20, oversampling)
    canvas.fill(np.array([(4, 4), (10.5, 4), (10.5, 16), (4, 16)]), (200, 200, 200))
    inside, edge, outside = canvas.image()[10, 9:12, 0].tolist()
    assert inside == 200 > edge > 50 > outside == 0


def test_a_ribbon_is_as_wide_as_asked() -> None:
    canvas = Canvas(40, 40)
    canvas.fill(ribbon(np.array([(5.0, 20.0), (20.0, 20.0), (35.0, 20.0)]), 6), (255, 255, 255))
    assert canvas.image()[..., 0].sum() / 255 == pytest.approx(30 * 6, rel=0.06)


def test_a_ring_is_hollow() -> None:
    canvas = Canvas(40, 40)
    canvas.fill(ring(ellipse(20, 20, 15, 15), ellipse(20, 20, 10, 10)), (255, 255, 255))
    assert canvas.image()[20, 20].tolist() == [0, 0, 0]
    assert canvas.image()[..., 0].sum() / 255 == pytest.approx(np.pi * (15**2 - 10**2), rel=0.05)


def test_a_pasted_canvas_fills_the_picture() -> None:
    small, large = Canvas(4, 4, 1), Canvas(40, 40)
    small.gradient((10, 20, 30), (10, 20, 30))
    large.paste(small)
    assert (large.image() == (10, 20, 30)).all()
