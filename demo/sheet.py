"""The contact sheet: inputs, and for each scene a few moments with keypoints above and generated frames below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]  # (H, W, 3) RGB

_CELL = 128  # pixels
_GAP = 8
_MARGIN = 24
_PAPER, _INK, _FAINT = (250, 249, 246), (34, 34, 38), (110, 110, 118)


@dataclass(frozen=True)
class Strip:
    """One row: a title, a line below it, and columns of pictures, each from top to bottom."""

    title: str
    note: str
    columns: Sequence[Sequence[Picture]]


def contact_sheet(heading: str, note: str, strips: Sequence[Strip]) -> Image.Image:
    """Strips under each other; all pictures are scaled to the same size."""
    columns = max(len(strip.columns) for strip in strips)
    depths = [max(len(column) for column in strip.columns) for strip in strips]
    width = 2 * _MARGIN + columns * (_CELL + _GAP) - _GAP
    height = 2 * _MARGIN + 64 + sum(62 + depth * (_CELL + _GAP) for depth in depths)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), heading, _INK, ImageFont.load_default(26))
    draw.text((_MARGIN, _MARGIN + 36), note, _FAINT, ImageFont.load_default(14))
    top = _MARGIN + 64
    for strip, depth in zip(strips, depths, strict=True):
        draw.text((_MARGIN, top + 10), strip.title, _INK, ImageFont.load_default(17))
        draw.text((_MARGIN, top + 33), strip.note, _FAINT, ImageFont.load_default(13))
        for x, column in enumerate(strip.columns):
            for y, picture in enumerate(column):
                cell = Image.fromarray(picture).resize((_CELL, _CELL), Image.Resampling.LANCZOS)
                sheet.paste(cell, (_MARGIN + x * (_CELL + _GAP), top + 58 + y * (_CELL + _GAP)))
        top += 62 + depth * (_CELL + _GAP)
    return sheet
