"""Keypoint maps: pictures of a face's three points, the input of the pose guider."""

from __future__ import annotations

import math

import cv2
import numpy as np

from vexpress_rt.types import Float32, UInt8, check_finite_points
from vexpress_rt.utils.native_calls import native_call

_LIMBS = ((0, 2), (1, 2))
_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
_RADIUS = 4
_FARTHEST = 100_000.0  # pixels; OpenCV uses 32-bit integers, in places with 16 fractional bits


@native_call()
def draw_keypoint_map(points: Float32, height: int, width: int) -> UInt8:
    """Draw the keypoint map of a face, as in the training of the pose guider.

    On black: a limb from each eye to the nose, in the eye's colour times 0.6, then a disc of radius 4 pixels at each
    point. The left eye is red, the right eye green, the nose blue. Parts outside the picture are clipped.

    Args:
        points: (3, 2) float32, x then y in pixels: left eye, right eye, nose.
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        KeypointError: A point is NaN or infinite.

    Source: docs/model/specification.md, stage 4.
    """
    check_finite_points(points[None])
    # A limb to a point beyond _FARTHEST may have another direction, but nothing overflows.
    near = np.clip(points.astype(np.float64), -_FARTHEST, _FARTHEST)
    canvas = np.zeros((height, width, 3), np.uint8)
    for first, second in _LIMBS:
        (x0, y0), (x1, y1) = near[first], near[second]
        centre = int((x0 + x1) / 2), int((y0 + y1) / 2)
        half_axes = int(math.hypot(x0 - x1, y0 - y1) / 2), _RADIUS
        angle = int(math.degrees(math.atan2(y0 - y1, x0 - x1)))
        polygon = np.array(cv2.ellipse2Poly(centre, half_axes, angle, 0, 360, 1))
        cv2.fillConvexPoly(canvas, polygon, [int(0.6 * channel) for channel in _COLOURS[first]])
    for (x, y), colour in zip(near, _COLOURS, strict=True):
        cv2.circle(canvas, (int(x), int(y)), _RADIUS, colour, -1)
    return canvas
