"""Nose, eyes, brows and mouth. `skin` is the face that they are painted on; all of it is in face coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from export.pocket.faces.canvas import Mask, Points, curve, ellipse, ribbon
from export.pocket.faces.easel import Easel, tone
from export.pocket.faces.people import EYE_X, EYE_Y, NOSE_LIFT, NOSE_Y, Colour

Line = list[tuple[float, float]]


def draw_nose(easel: Easel, skin: Mask) -> None:
    """Bridge, tip and nostrils; lifted out of the face, so that it moves most when the head turns."""
    canvas, u, n = easel.canvas, easel.unit, easel.person.nose

    def at(points: Any, lift: float) -> Points:
        return easel.head.place(points, lift)

    side = curve(at([(0.08, -0.2), (0.13 * n, 0.1), (0.22 * n, 0.42), (0.1 * n, 0.5), (0.07, 0.1)], 0.14))
    canvas.fill(side, easel.shade, soft=0.05 * u, within=skin, opacity=0.75)
    canvas.fill(at(ellipse(0.02, 0.56, 0.26 * n, 0.07), 0.1), easel.shade, soft=0.05 * u, within=skin, opacity=0.9)
    for s in (-1, 1):
        wing = curve(at([(s * 0.2 * n, 0.36), (s * 0.26 * n, 0.46), (s * 0.2 * n, 0.54)], 0.08), closed=False)
        canvas.fill(ribbon(wing, [0, 0.04 * u, 0.01]), easel.deep, soft=0.015 * u, within=skin, opacity=0.7)
        nostril = [(s * 0.06 * n, 0.52), (s * 0.13 * n, 0.485), (s * 0.17 * n, 0.52), (s * 0.12 * n, 0.54)]
        canvas.fill(curve(at(nostril, 0.14)), tone(easel.deep, 0.6), soft=0.012 * u, within=skin, opacity=0.85)
    bridge = curve(at([(-0.03, -0.15), (-0.035, 0.1), (-0.03, 0.3)], 0.16), closed=False)
    canvas.fill(ribbon(bridge, [0, 0.07 * u, 0.08 * u]), easel.light, soft=0.04 * u, within=skin, opacity=0.6)
    tip = at(ellipse(-0.04, NOSE_Y - 0.02, 0.07, 0.055), NOSE_LIFT)
    canvas.fill(tip, tone(easel.light, 1.3), soft=0.03 * u, within=skin, opacity=0.75)


def draw_eye(easel: Easel, skin: Mask, side: int) -> None:
    """An eye; `side` is -1 for the left in the picture, 1 for the right."""
    canvas, u, place = easel.canvas, easel.unit, easel.head.place
    x, s = side * EYE_X * easel.person.eye_distance, 1.14 * easel.person.eye_size
    socket = place(ellipse(x, EYE_Y - 0.08, 0.3, 0.2))
    canvas.fill(socket, easel.shade, soft=0.08 * u, within=skin, opacity=0.6)
    edge = [(-0.235, -0.035), (-0.13, 0.62), (0.01, 1.0), (0.13, 0.72), (0.235, 0.2)]  # inner to outer corner

    def lid(height: float) -> Line:
        return [(x + side * dx * s, EYE_Y - (dy if dy < 0 else dy * height) * s) for dx, dy in edge]

    upper, lower = lid(0.113 * (1 - 1.5 * easel.pose.blink)), lid(-0.085)
    opening = place(np.concatenate([curve(upper, closed=False), curve(lower, closed=False)[::-1]]))
    white = canvas.mask(opening)
    canvas.fill(opening, (243, 238, 233))
    _draw_iris(easel, white, x, EYE_Y - 0.012, 0.115 * s)
    _draw_lids(easel, white, upper, lower)
    lash = [upper[-2], upper[-1], (x + side * 0.275 * s, EYE_Y - 0.035 * s)]
    canvas.fill(ribbon(curve(place(lash), closed=False), [0.04 * u, 0.03 * u, 0]), tone(easel.person.hair, 0.45))


def _draw_iris(easel: Easel, white: Mask, x: float, y: float, radius: float) -> None:
    colour, u = easel.person.eyes, easel.unit

    def disc(dx: float, dy: float, size: float, paint: Colour, soft: float, opacity: float = 1) -> None:
        outline = easel.head.place(ellipse(x + dx * radius, y + dy * radius, size * radius, size * radius))
        easel.canvas.fill(outline, paint, soft=soft * u, opacity=opacity, within=white)

    disc(0, 0, 1, tone(colour, 0.45), 0.006)
    disc(0, 0, 0.85, colour, 0.015)
    disc(0.1, 0.42, 0.42, tone(colour, 1.5), 0.02, 0.8)
    disc(0, 0, 0.45, (18, 14, 14), 0.006)
    disc(-0.36, -0.36, 0.25, (255, 255, 255), 0.004, 0.95)
    disc(0.4, 0.4, 0.12, (255, 255, 255), 0.004, 0.5)


def _draw_lids(easel: Easel, white: Mask, upper: Line, lower: Line) -> None:
    canvas, u, place = easel.canvas, easel.unit, easel.head.place

    def line(points: Line, down: float, widths: list[float], colour: Colour, soft: float, **options: Any) -> None:
        path = curve(place([(x, y + down) for x, y in points]), closed=False)
        canvas.fill(ribbon(path, np.array(widths) * u), colour, soft=soft * u, **options)

    line(upper, 0.03, [0.08], (70, 50, 48), 0.025, within=white, opacity=0.55)  # the lid's shadow on the eye
    line(upper, 0, [0.012, 0.035, 0.045, 0.04], tone(easel.person.hair, 0.45), 0.004)
    line(lower, 0, [0.006, 0.016], easel.deep, 0.006, opacity=0.8)
    line(upper, -0.065 - 0.015 * easel.pose.blink, [0, 0.025, 0.03, 0], easel.deep, 0.012, opacity=0.55)


def draw_brow(easel: Easel, side: int) -> None:
    """An eyebrow: thick towards the nose, with hairs along it."""
    u, x, w = easel.unit, EYE_X * easel.person.eye_distance, easel.person.brows
    colour = tone(easel.person.hair, 0.85)
    points = [(x - 0.25, -0.37), (x - 0.05, -0.45), (x + 0.12, -0.455), (x + 0.3, -0.35)]
    line = curve(easel.head.place([(side * px, py) for px, py in points], 0.03), closed=False)
    widths = np.array([0.07, 0.11, 0.1, 0.02]) * u * w
    easel.canvas.fill(ribbon(line, widths), colour, soft=0.022 * u, opacity=0.85)
    for k, offset in enumerate(np.linspace(-0.03, 0.03, 5)):
        hair = line[3 * k : 3 * k + 18] + np.array([0, offset * u * w])
        easel.canvas.fill(ribbon(hair, [0, 0.016 * u, 0]), tone(colour, 0.75), soft=0.006 * u, opacity=0.5)


def draw_mouth(easel: Easel, skin: Mask) -> None:
    """Lips, and between them, when they are open, teeth, tongue and dark."""
    canvas, u, place, gap, full = easel.canvas, easel.unit, easel.head.place, easel.pose.mouth, easel.person.lips
    r, g, b = easel.person.skin
    lip: Colour = (0.8 * r, 0.53 * g, 0.56 * b)
    spread = 1 + 0.16 * easel.pose.width - 0.34 * easel.pose.rounding
    w, y, opening = 0.4 * easel.person.mouth * (1 - 0.12 * gap) * spread, 0.82, 0.26 * gap

    def edge(*heights: float) -> Points:
        """From corner to corner through points at heights below the mouth's middle, evenly spread."""
        across = np.linspace(-w, w, len(heights))
        return curve(np.stack([across, y + np.array(heights)], axis=1), closed=False)

    top = edge(-0.03, -0.068 * full, -0.105 * full, -0.085 * full, -0.105 * full, -0.068 * full, -0.03)
    upper = edge(-0.03, 0.014, 0.028, 0.014, -0.03)
    lower = edge(-0.03, 0.014 + 0.75 * opening, 0.028 + opening, 0.014 + 0.75 * opening, -0.03)
    side, middle = 0.75 * opening + 0.1 * full, opening + 0.15 * full
    bottom = edge(-0.03, side, middle, side, -0.03)
    below = place(ellipse(0.03, y + opening + 0.25, 0.26, 0.05))
    canvas.fill(below, easel.shade, soft=0.05 * u, within=skin, opacity=0.8)
    if gap > 0:
        _draw_inside(easel, np.concatenate([upper, lower[::-1]]), y, w)
    canvas.fill(place(np.concatenate([lower, bottom[::-1]])), tone(lip, 1.12), soft=0.008 * u)
    canvas.fill(place(np.concatenate([top, upper[::-1]])), tone(lip, 0.9), soft=0.008 * u)
    shine = place(ellipse(-0.05, y + opening + 0.085 * full, 0.13, 0.022))
    canvas.fill(shine, tone(lip, 1.6), soft=0.025 * u, opacity=0.7)
    seam = ribbon(place(upper), np.array([0.01, 0.025, 0.03, 0.025, 0.01]) * u)
    canvas.fill(seam, tone(lip, 0.45), soft=0.01 * u, opacity=0.9 * max(0.0, 1 - 8 * gap))
    for x in (-w - 0.015, w + 0.015):
        dimple = place(ellipse(x, y - 0.03, 0.035, 0.025))
        canvas.fill(dimple, easel.deep, soft=0.02 * u, within=skin, opacity=0.7)


def _draw_inside(easel: Easel, outline: Points, y: float, w: float) -> None:
    canvas, place, u = easel.canvas, easel.head.place, easel.unit
    hollow = canvas.mask(place(outline))
    canvas.fill(place(outline), (62, 20, 24))
    tongue = ellipse(0, y + 0.3 * easel.pose.mouth + 0.06, 0.6 * w, 0.12)
    canvas.fill(place(tongue), (176, 84, 88), soft=0.04 * u, within=hollow, opacity=0.9)
    canvas.fill(place(ellipse(0, y, 0.75 * w, 0.085)), (240, 236, 228), soft=0.01 * u, within=hollow)
