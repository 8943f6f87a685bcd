"""Compare frames with drawings of the expected frames: fidelity, sharpness, looks, hair, and still regions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pocket.evaluate.cases import Case
from export.pocket.evaluate.measuring import EVERY, Values
from export.pocket.evaluate.subjects import draw
from export.pocket.evaluate.video_sources import Frames
from export.pocket.faces import Person, Pose, random_person

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Mask = NDArray[np.bool_]  # (H, W)
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Feature:
    """How a feature is looked for in people without it.

    Attributes:
        kinds: Number of its most common kinds that are looked for.
        most: Largest strength that counts as absent, over that of the drawn feature.
    """

    kinds: int
    most: float


NONE = "none"  # the kind of a feature that a person does not have
# Traces of glasses and hats are conspicuous; the shading of a chin without a beard resembles a faint beard.
_KNOWN = {"glasses": Feature(4, 0.3), "hat": Feature(2, 0.3), "beard": Feature(2, 0.5)}
FEATURES = {name: feature for name, feature in _KNOWN.items() if name in {f.name for f in fields(Person)}}
PRESENT = 0.5  # least strength of a feature that counts as present, over that of the drawn one
BALD = "bald"  # style without hair
ROUNDING = 1 / 12  # mean square error of rounding to 8 bits; a PSNR is at most 58.9 dB

_SAMPLE = 400  # people among whom kinds are counted
_DETAIL = (1.0, 4.0)  # pixels: a feature shows in details between these scales; coarser ones are the skin's tone
_VISIBLE = 6.0  # levels of detail, least difference of drawings where a feature is looked for
_SHADOW = 8.0  # levels, least difference of a shadow of the hair
_CONTRAST = 24.0  # levels, least difference between the drawings with and without hair
_LEAST = 12  # pixels, least size of the region of a feature or of hair
_BAND = 12  # pixels around the hair in which other hair is looked for
_MARGIN = np.ones((7, 7), np.uint8)  # around what moves: in between two compared frames it may reach further


@dataclass(frozen=True)
class Pictures:
    """Measurements of a video's frames, of which K are compared with drawings.

    Attributes:
        case: The video.
        psnr: dB, (K,).
        ssim: (K,).
        sharpness: Gradient energy over that of the drawing, (K,).
        looks: By feature, whether the person has it, or not, as in the photo, one bool for each frame in which drawings
            with and without it differ.
        hair: Overlap of the hair's silhouettes (intersection over union), (K,); NaN where no hair shows.
        flicker: Mean change from frame to frame where the drawings do not change, in levels of 8 bits, (K - 1,); NaN
            where everything changes.
    """

    case: Case
    psnr: Values
    ssim: Values
    sharpness: Values
    looks: dict[str, NDArray[np.bool_]]
    hair: Values
    flicker: Values


def measure_pictures(case: Case, frames: Frames) -> Pictures:
    """Compare every EVERY-th frame of a video with the drawing of the person in that pose with that mouth.

    Args:
        case: The video.
        frames: (L, H, W, 3) uint8 RGB.
    """
    compared = range(0, len(frames), EVERY)
    poses = [expected_pose(case.poses[i]) for i in compared]
    drawn = [draw(case.person, pose).image for pose in poses]
    pairs = list(zip([frames[i] for i in compared], drawn, strict=True))
    bald = [draw(replace(case.person, style=BALD), pose).image for pose in poses]
    return Pictures(
        case=case,
        psnr=np.array([psnr(frame, drawing) for frame, drawing in pairs]),
        ssim=np.array([ssim(frame, drawing) for frame, drawing in pairs]),
        sharpness=np.array([gradient_energy(frame) / gradient_energy(drawing) for frame, drawing in pairs]),
        looks={name: np.array(list(_looks(name, case.person, poses, pairs)), bool) for name in FEATURES},
        hair=np.array([hair_overlap(*pair, without) for pair, without in zip(pairs, bald, strict=True)]),
        flicker=np.array([
            flicker(frames[first : first + EVERY + 1], before, after)
            for first, (before, after) in zip(compared, pairwise(drawn), strict=False)
        ]),
    )  # fmt: skip


def expected_pose(pose: Pose) -> Pose:
    """Return the pose with open eyes: neither keypoints nor speech determine when eyes blink.

    Args:
        pose: The pose.
    """
    return replace(pose, blink=0.0)


def psnr(frame: Image, drawing: Image) -> float:
    """Return the peak signal-to-noise ratio in dB, at most 58.9.

    Args:
        frame: (H, W, 3) uint8.
        drawing: (H, W, 3) uint8.
    """
    error = float(np.square(frame.astype(np.float32) - drawing).mean())
    return float(10 * np.log10(255**2 / max(error, ROUNDING)))


def ssim(frame: Image, drawing: Image) -> float:
    """Return the mean structural similarity of the luma, without the border that the window reaches beyond.

    Z. Wang, A. C. Bovik, H. R. Sheikh and E. P. Simoncelli, "Image quality assessment: From error visibility to
    structural similarity", IEEE Transactions on Image Processing 13(4), 2004: equation 13, with their window, Gaussian
    of 11 x 11 pixels with a standard deviation of 1.5, and their constants K1 = 0.01 and K2 = 0.03.

    Args:
        frame: (H, W, 3) uint8 RGB, at least 11 x 11 pixels.
        drawing: (H, W, 3) uint8 RGB.

    Returns:
        At most 1, for equal images.
    """
    x, y = (_luma(image).astype(np.float64) for image in (frame, drawing))

    def mean(values: Values) -> Values:
        return np.asarray(cv2.GaussianBlur(values, (11, 11), 1.5), np.float64)[5:-5, 5:-5]

    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    return float(index.mean())


def gradient_energy(image: Image) -> float:
    """Return the mean square of the luma's gradient.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    luma = _luma(image)
    return float(sum(np.square(np.diff(luma, axis=axis)).mean() for axis in (0, 1)))


def flicker(frames: Frames, before: Image, after: Image) -> float:
    """Return the mean change from frame to frame where two drawings do not differ.

    Args:
        frames: Consecutive frames (n, H, W, 3) uint8.
        before: Drawing of the first of them, (H, W, 3) uint8.
        after: Drawing of the last of them.

    Returns:
        Levels of 8 bits; NaN if the drawings differ everywhere.
    """
    still = cv2.dilate((before != after).any(axis=-1).astype(np.uint8), _MARGIN) == 0
    if not still.any():
        return float("nan")
    return float(np.abs(np.diff(frames.astype(np.float32), axis=0))[:, still].mean())


def strength(frame: Image, without: Image, having: Image) -> float | None:
    """Return the strength of a feature in a frame: the projection of its details from one drawing to the other.

    Args:
        frame: (H, W, 3) uint8.
        without: The drawing without the feature, (H, W, 3) uint8.
        having: The drawing with it, (H, W, 3) uint8.

    Returns:
        0 for a frame like the first drawing, 1 for one like the second; None if the drawings hardly differ.
    """
    seen, start, end = (_detail(image) for image in (frame, without, having))
    region = _differs(start, end, _VISIBLE)
    if region.sum() < _LEAST:
        return None
    way = (end - start)[region]
    return float(((seen - start)[region] * way).sum() / np.square(way).sum())


def _detail(image: Image) -> Floats:
    values = image.astype(np.float32)
    fine, coarse = (cv2.GaussianBlur(values, (0, 0), scale) for scale in _DETAIL)
    return np.asarray(fine - coarse, np.float32)


def hair_overlap(frame: Image, drawing: Image, bald: Image) -> float:
    """Return the overlap of the hair in a frame with that of a drawing, as intersection over union.

    A pixel counts as hair if it is nearer to the colour of the hair than to the drawing without hair. Around the hair,
    the colour of the hair is that of its nearest pixel. Pixels at which the two colours hardly differ, and shadows of
    the hair, are not counted.

    Args:
        frame: (H, W, 3) uint8.
        drawing: The person, (H, W, 3) uint8.
        bald: The person without hair, (H, W, 3) uint8.

    Returns:
        0 to 1; NaN if the drawings hardly differ.
    """
    seen, drawn, behind = (image.astype(np.float32) for image in (frame, drawing, bald))
    hair, beside = _differs(drawn, behind, _CONTRAST), ~_differs(drawn, behind, _SHADOW)
    inside = cv2.erode(hair.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # without mixed colours at the edge
    if hair.sum() < _LEAST or not inside.any():
        return float("nan")
    colours, distance = _continued(drawn, inside)
    colours[hair] = drawn[hair]
    judged = hair | (beside & (distance <= _BAND) & _differs(colours, behind, _CONTRAST))
    found = np.square(seen - colours).sum(axis=-1) < np.square(seen - behind).sum(axis=-1)
    return float((found & hair & judged).sum() / ((found | hair) & judged).sum())


def _continued(image: Floats, mask: Mask) -> tuple[Floats, Floats]:
    """Return the colour of the nearest pixel of a mask at each pixel, (H, W, 3), and its distance, (H, W)."""
    distance, labels = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros((int(labels.max()) + 1, 3), np.float32)
    colours[labels[mask]] = image[mask]
    return colours[labels], np.asarray(distance, np.float32)


def _differs(one: Floats, other: Floats, levels: float) -> Mask:
    differs: Mask = np.abs(one - other).max(axis=-1) > levels
    return differs


def _luma(image: Image) -> Floats:
    """Return the luma of ITU-R BT.601, (H, W) in 0 to 255."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY), np.float32)


def _looks(name: str, person: Person, poses: Sequence[Pose], pairs: Sequence[tuple[Image, Image]]) -> Iterator[bool]:
    """Return, for each frame in which a feature can be judged, whether it is as in the photo."""
    has, most = getattr(person, name) != NONE, FEATURES[name].most
    for pose, (frame, drawing) in zip(poses, pairs, strict=True):
        others = [draw(_changed(person, name, kind), pose).image for kind in ((NONE,) if has else common_kinds(name))]
        found = [strength(frame, *((other, drawing) if has else (drawing, other))) for other in others]
        judged = [value for value in found if value is not None]
        if judged:
            yield min(judged) >= PRESENT if has else max(judged) <= most


def _changed(person: Person, feature: str, kind: str) -> Person:
    values: dict[str, Any] = {feature: kind}
    return replace(person, **values)


@cache
def common_kinds(feature: str) -> tuple[str, ...]:
    """Return the most common kinds of a feature, as many as are looked for in people without it.

    Args:
        feature: A key of FEATURES.
    """
    counts = Counter(getattr(random_person(seed), feature) for seed in range(_SAMPLE))
    return tuple(kind for kind, _ in counts.most_common() if kind != NONE)[: FEATURES[feature].kinds]
