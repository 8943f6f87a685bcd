"""A sheet for visual inspection: photos, frames with closed and open mouths, moving heads, and curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from export.pocket.architecture import FPS
from export.pocket.evaluate.measuring import Measured, Values
from export.pocket.evaluate.video_sources import Frames

MOMENTS = 6  # frames of each video
PEOPLE = 4  # on a sheet
SCENES = ("voice", "pose")  # on a sheet

Shot = tuple[Measured, Frames]

_CELL, _GAP, _MARGIN, _LINE, _CURVE = 160, 8, 20, 22, 110  # pixels
_PAPER, _INK, _SOUND, _SEEN = (250, 249, 246), (34, 34, 38), (150, 150, 160), (200, 60, 40)
_POINTS = ((230, 50, 50), (60, 190, 80), (60, 110, 240))  # left eye, right eye, nose


def draw_sheet(heading: str, shots: Sequence[Shot]) -> Image.Image:
    """Draw a band for each video: the photo and some frames, and for speech the expected and the measured opening.

    Args:
        heading: Text above the bands.
        shots: Measurements and frames of each video.
    """
    width = 2 * _MARGIN + (MOMENTS + 1) * (_CELL + _GAP) - _GAP
    heights = [_LINE + _CELL + _GAP + (_CURVE + _GAP if _speaks(m) else 0) for m, _ in shots]
    sheet = Image.new("RGB", (width, 2 * _MARGIN + 2 * _LINE + sum(heights)), _PAPER)
    ImageDraw.Draw(sheet).text((_MARGIN, _MARGIN), heading, _INK, ImageFont.load_default(18))
    top = _MARGIN + 2 * _LINE
    for (measured, frames), height in zip(shots, heights, strict=True):
        _band(sheet, top, measured, frames)
        top += height
    return sheet


def moments(track: Values) -> list[int]:
    """Choose frames from equal stretches of a curve, alternately at its minimum and its maximum.

    Args:
        track: (L,).

    Returns:
        MOMENTS indices in ascending order.
    """
    stretches = np.array_split(np.arange(len(track)), MOMENTS)
    turns = (np.argmin, np.argmax)
    return [int(stretch[turns[i % 2](track[stretch])]) for i, stretch in enumerate(stretches)]


def _band(sheet: Image.Image, top: int, measured: Measured, frames: Frames) -> None:
    case, draw = measured.case, ImageDraw.Draw(sheet)
    shows = f"nose off by {np.median(measured.errors):.1%} of the width"
    if _speaks(measured):
        shows = f"correlation {measured.correlation:.2f}"
    draw.text((_MARGIN, top), f"person {case.subject.seed}, {case.scene}: {shows}", _INK, ImageFont.load_default(14))
    shown = (
        moments(case.followed) if _speaks(measured) else np.linspace(0, len(frames) - 1, MOMENTS).astype(int).tolist()
    )
    pictures = [case.subject.rest.image, *(_marked(frames[i], case.points[i], not case.held) for i in shown)]
    for place, picture in enumerate(pictures):
        cell = Image.fromarray(picture).resize((_CELL, _CELL), Image.Resampling.LANCZOS)
        sheet.paste(cell, (_MARGIN + place * (_CELL + _GAP), top + _LINE))
    if _speaks(measured):
        _curves(draw, top + _LINE + _CELL + _GAP, measured, shown)


def _curves(draw: ImageDraw.ImageDraw, top: int, measured: Measured, shown: Sequence[int]) -> None:
    """Draw the expected and the measured opening, both over their range, below the frames."""
    subject, count = measured.case.subject, len(measured.openings)
    left, right = _MARGIN + _CELL + _GAP, _MARGIN + (MOMENTS + 1) * (_CELL + _GAP) - _GAP
    seen = (measured.openings - subject.closed) / (subject.opened - subject.closed)
    draw.text((_MARGIN, top), f"expected: grey\nmeasured: red\n{count / FPS:.1f} s", _INK, ImageFont.load_default(13))
    draw.rectangle((left, top, right, top + _CURVE), outline=_SOUND)

    def across(frame: float) -> float:
        return left + (frame + 0.5) * (right - left) / count

    for frame in shown:
        draw.line((across(frame), top, across(frame), top + _CURVE), (225, 222, 214))
    for curve, colour in ((measured.case.followed, _SOUND), (seen, _SEEN)):
        heights = top + _CURVE * (1 - np.clip(curve, 0, 1))
        draw.line([(across(i), float(y)) for i, y in enumerate(heights)], colour, 2)


def _marked(frame: NDArray[np.uint8], points: NDArray[np.float32], mark: bool) -> NDArray[np.uint8]:
    """Draw the given keypoints as dots, if `mark`."""
    if not mark:
        return frame
    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture)
    for (x, y), colour in zip(points.tolist(), _POINTS, strict=True):
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), colour)
    return np.asarray(picture)


def _speaks(measured: Measured) -> bool:
    return bool(np.ptp(measured.case.followed) > 0)
