"""Training images of the face detector: drawn people of random size and position on random backgrounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pocket.acting import random_pose
from export.pocket.faces import Person, Pose, draw_face, keypoints, random_person
from export.pocket.faces.backdrop import draw_backdrop
from export.pocket.faces.canvas import Canvas, ellipse
from export.pocket.faces.drawing_context import DrawingContext
from export.pocket.faces.mouth import lip_edges
from export.pocket.faces.people import SKINS
from export.pocket.faces.poses import Head

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Floats = NDArray[np.float32]

SIDE = 256  # pixels of a drawing
POINTS = 5  # left eye, right eye, nose, left and right mouth corner
HAIRLINE, CHIN = -1.1, 1.36  # ends of a face's box, in half face widths

_TURN = {"yaw": 0.45, "pitch": 0.25}  # largest angles in radians, larger than in speech
_LEVELS = 5  # sizes of a drawing, each half as wide as the one before
_MIRRORED = [1, 0, 2, 4, 3]  # points of a mirrored face


@dataclass(frozen=True)
class Portrait:
    """A drawn person in several sizes.

    Attributes:
        levels: (S, S, 3) uint8 for S = SIDE, SIDE / 2 and so on.
        backdrop: The background alone, (SIDE / 2, SIDE / 2, 3) uint8.
        points: x, then y in pixels, (POINTS + n, 2) float32: the points, then the face's outline from hairline to chin.
    """

    levels: tuple[Image, ...]
    backdrop: Image
    points: Floats


Pick = Callable[[np.random.Generator], Portrait]


@dataclass(frozen=True)
class Face:
    """A face in an image.

    Attributes:
        box: Left, top, right and bottom in pixels, (4,).
        points: x, then y in pixels, (POINTS, 2).
        whole: Whether all points are inside the image.
    """

    box: Floats
    points: Floats
    whole: bool


@dataclass(frozen=True)
class Snapshot:
    """A training image.

    Attributes:
        image: (S, S, 3) uint8.
        face: The face in it; None if there is none.
    """

    image: Image
    face: Face | None


def draw_portrait(seed: int) -> Portrait:
    """Draw a person in a random pose.

    Args:
        seed: Seed of the person and the pose.
    """
    rng, person = np.random.default_rng((seed, 8)), random_person(seed)
    pose = replace(random_pose(rng), **{name: float(rng.uniform(-most, most)) for name, most in _TURN.items()})
    levels = [draw_face(person, pose, height=SIDE, width=SIDE, oversampling=2).image]
    for _ in range(_LEVELS - 1):
        levels.append(_scaled(levels[-1], len(levels[-1]) // 2))
    return Portrait(tuple(levels), _backdrop(person), face_points(person, pose))


def face_points(person: Person, pose: Pose) -> Floats:
    """Return the points and the outline of a face drawn with SIDE pixels.

    Args:
        person: The person.
        pose: The pose.

    Returns:
        x, then y in pixels, (POINTS + n, 2) float32.
    """
    head, lips = Head(pose, SIDE, SIDE), lip_edges(_drawing_context(person, pose, SIDE))
    corners = head.place(lips.upper[[0, -1]], lips.lift)
    chin = CHIN * person.length
    outline = head.place(head.lowered(ellipse(0, (chin + HAIRLINE) / 2, 1, (chin - HAIRLINE) / 2)))
    return np.concatenate([keypoints(person, pose, SIDE, SIDE), corners, outline]).astype(np.float32)


def snapshot(pick: Pick, rng: np.random.Generator, side: int, heights: tuple[float, float]) -> Snapshot:
    """Make a training image with one face or none.

    Args:
        pick: Draws a random portrait.
        rng: Random generator of the image.
        side: Height and width in pixels.
        heights: Usual smallest and largest height of a face in pixels; some faces are smaller or larger.
    """
    wide, tall = _picture_size(rng, side)
    image, face = _background(pick, rng, wide, tall), None
    if rng.random() < 0.85:
        found = _paste(image, pick(rng), rng, _face_height(rng, heights))
        points, outline = found[:POINTS], found[POINTS:]
        seen = bool(((points >= 0) & (points <= (wide, tall))).all())
        face = Face(np.concatenate([outline.min(axis=0), outline.max(axis=0)]), points, seen)
    canvas = np.zeros((side, side, 3), np.uint8)  # as `vexpress_rt.face.detector.preprocess` fills it
    canvas[:tall, :wide] = _relit(image, rng)
    return Snapshot(canvas, face)


def _backdrop(person: Person) -> Image:
    ctx = _drawing_context(person, Pose(), SIDE // 2)
    draw_backdrop(ctx)
    return ctx.canvas.image()


def _drawing_context(person: Person, pose: Pose, side: int) -> DrawingContext:
    return DrawingContext(Canvas(side, side, 1), Head(pose, side, side), person, pose)


def _picture_size(rng: np.random.Generator, side: int) -> tuple[int, int]:
    """Return width and height of the image on the canvas; the rest is black."""
    sizes = [side, side]
    if rng.random() < 0.3:
        sizes[int(rng.integers(2))] = int(side * rng.uniform(0.5, 1))
    return sizes[0], sizes[1]


def _face_height(rng: np.random.Generator, usual: tuple[float, float]) -> float:
    low, high = usual
    chance = rng.random()
    if chance < 0.15:
        low, high = low / 4, low
    elif chance < 0.35:
        low, high = high, high * 6
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _background(pick: Pick, rng: np.random.Generator, wide: int, tall: int) -> Image:
    """Make a wall, one colour or noise, with shapes of random colours on it, skin colours among them."""
    chance = rng.random()
    if chance < 0.7:
        left, top, size = (int(rng.integers(low, high)) for low, high in ((0, 64), (0, 64), (32, 64)))
        part = pick(rng).backdrop[top : top + size, left : left + size]
        image = np.asarray(cv2.resize(part, (wide, tall)), np.uint8)
    elif chance < 0.85:
        image = np.full((tall, wide, 3), rng.integers(0, 256, 3), np.uint8)
    else:
        coarse = rng.integers(0, 256, (int(rng.integers(2, 24)), int(rng.integers(2, 24)), 3)).astype(np.uint8)
        image = np.asarray(cv2.resize(coarse, (wide, tall), interpolation=cv2.INTER_CUBIC), np.uint8)
    image = np.ascontiguousarray(image)
    for _ in range(int(rng.integers(0, 10)) if rng.random() < 0.5 else 0):
        _draw_shape(image, rng)
    return image


def _draw_shape(image: Image, rng: np.random.Generator) -> None:
    tall, wide = image.shape[:2]
    colour = rng.integers(0, 256, 3).tolist() if rng.random() < 0.6 else SKINS[int(rng.integers(len(SKINS)))]
    x, y = int(rng.integers(wide)), int(rng.integers(tall))
    a, b = (int(v) for v in np.exp(rng.uniform(0, np.log(max(wide, tall) / 2), 2)))
    if rng.random() < 0.6:
        cv2.ellipse(image, (x, y), (a, b), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    else:
        cv2.rectangle(image, (x - a, y - b), (x + a, y + b), colour, -1)


def _paste(image: Image, shown: Portrait, rng: np.random.Generator, height: float) -> Floats:
    """Paste a portrait whose face is `height` pixels high, and return its points as in `Portrait.points`."""
    outline = shown.points[POINTS:]
    low, high = outline.min(axis=0), outline.max(axis=0)
    size, squeeze = height / float(high[1] - low[1]), np.exp(rng.normal(0, 0.07))
    angle, flipped = rng.normal(0, 0.16), rng.random() < 0.5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([(-1 if flipped else 1) * size * squeeze, size / squeeze])
    room = np.array(image.shape[1::-1])
    aim = room * rng.uniform(0, 1, 2)
    if rng.random() < 0.8:  # completely inside the image if possible
        margin = np.minimum(height, room) / 2
        aim = np.clip(aim, margin, room - margin)
    shift = aim - matrix @ ((low + high) / 2)
    _warp(image, shown, matrix, shift, spread=rng.random() < 0.6)
    points: Floats = (shown.points @ matrix.T + shift).astype(np.float32)
    if flipped:
        points[:POINTS] = points[_MIRRORED]
    return points


def _warp(image: Image, shown: Portrait, matrix: NDArray[np.float64], shift: NDArray[np.float64], spread: bool) -> None:
    """Warp the portrait over `image`; `spread` continues the portrait's border over the whole image."""
    size = np.sqrt(abs(np.linalg.det(matrix)))
    level = int(np.clip(np.floor(np.log2(1 / size) + 0.3), 0, _LEVELS - 1))
    source, larger = shown.levels[level], matrix * 2**level
    # The origin of points is the corner of the first pixel, that of OpenCV its middle.
    centred = np.concatenate([larger, (shift + larger.sum(axis=1) / 2 - 0.5)[:, None]], axis=1)
    border = cv2.BORDER_REPLICATE if spread else cv2.BORDER_TRANSPARENT
    cv2.warpAffine(source, centred, image.shape[1::-1], dst=image, flags=cv2.INTER_LINEAR, borderMode=border)


def _relit(image: Image, rng: np.random.Generator) -> Image:
    """Vary colours, contrast, shading, blur and noise."""
    tall, wide = image.shape[:2]
    values = image.astype(np.float32) / 255
    if rng.random() < 0.3:
        grey = values.mean(axis=2, keepdims=True)
        values = values + np.float32(rng.uniform(0.5, 1)) * (grey - values)
    values = values ** np.float32(np.exp(rng.normal(0, 0.35)))
    values *= np.exp(rng.normal(0, 0.12, 3)).astype(np.float32)
    if rng.random() < 0.5:
        coarse = np.exp(rng.normal(0, 0.35, (3, 3))).astype(np.float32)
        values *= np.asarray(cv2.resize(coarse, (wide, tall), interpolation=cv2.INTER_CUBIC), np.float32)[..., None]
    middle = np.float32(values.mean())
    values = middle + (values - middle) * np.float32(np.exp(rng.normal(0, 0.25))) + np.float32(rng.normal(0, 0.05))
    if rng.random() < 0.5:
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), rng.uniform(0.2, 1.2)), np.float32)
    if rng.random() < 0.4:
        values = values + rng.normal(0, rng.uniform(0, 0.06), values.shape).astype(np.float32)
    relit: Image = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    return relit


def _scaled(image: Image, side: int) -> Image:
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
