"""The contact sheet: the sound and the expected openness of the mouth; for each scene, measured openness and frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo.charts import FAINT, HEARD, INK, PAPER, SEEN, Chart, Colour
from demo.lips import Curve
from vexpress_rt.media.recording import Recording
from vexpress_rt.types import UInt8

CELL = 128  # pixels, height and width of pictures
COLUMNS = 8

_GAP, _MARGIN, _SIDE = 4, 24, 152
_CHARTS = COLUMNS * (CELL + _GAP) - _GAP  # pixels, width of the charts
_WAVE, _CURVE, _LEADERS = 56, 64, 16  # pixels, heights
_LEFT = _MARGIN + _SIDE
WIDTH = _LEFT + _CHARTS + _MARGIN


@dataclass(frozen=True)
class Sound:
    """The sound of the sheet.

    Attributes:
        speech: The recording.
        heard: (L,), openness expected from the sound, by frame.
        fps: Frames a second.
        moments: Frames to show, ascending.
    """

    speech: Recording
    heard: Curve
    fps: float
    moments: Sequence[int]


@dataclass(frozen=True)
class Row:
    """A scene.

    Attributes:
        lines: Description.
        lead: Picture of the source of motion.
        frames: (L, H, W, 3) uint8 RGB.
        seen: (L,), measured openness by frame.
    """

    lines: Sequence[str]
    lead: UInt8
    frames: UInt8
    seen: Curve


class _Page:
    """A sheet that grows downwards."""

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (WIDTH, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.top = _MARGIN

    def text(self, x: int, y: int, text: str, size: int, colour: Colour = INK, anchor: str = "la") -> None:
        """Write text at `x`, and `y` pixels below the top."""
        self.draw.text((x, self.top + y), text, colour, ImageFont.load_default(size), anchor=anchor)

    def put(self, picture: Image.Image, x: int, y: int = 0) -> None:
        self.image.paste(picture, (x, self.top + y))


def contact_sheet(heading: str, note: str, sound: Sound, groups: dict[str, list[Row]]) -> Image.Image:
    """Draw the sheet.

    Args:
        heading: Title.
        note: Subtitle.
        sound: The sound; at most COLUMNS of its moments are shown.
        groups: Scenes by the name of the person.
    """
    rows = sum(len(group) for group in groups.values())
    height = 2 * _MARGIN + 60 + _WAVE + _CURVE + 48 + 34 * len(groups) + rows * _row_height() - 18
    page = _Page(height)
    _head(page, heading, note)
    _sound(page, sound)
    for name, group in groups.items():
        page.text(_MARGIN, 4, name, 20)
        page.top += 34
        for row in group:
            _row(page, row, sound)
    return page.image


def _row_height() -> int:
    return _CURVE + _LEADERS + CELL + 18


def _head(page: _Page, heading: str, note: str) -> None:
    page.text(_MARGIN, 0, heading, 26)
    page.text(_MARGIN, 36, note, 15, FAINT)
    right = WIDTH - _MARGIN
    for y, colour, text in ((4, HEARD, "openness expected from the sound"), (26, SEEN, "openness in the frames")):
        page.text(right, y, text, 15, INK, "ra")
        left = right - round(page.draw.textlength(text, ImageFont.load_default(15)))
        page.draw.line((left - 34, page.top + y + 9, left - 10, page.top + y + 9), colour, 3)
    page.top += 60


def _sound(page: _Page, sound: Sound) -> None:
    """Draw waveform, openness and seconds."""
    wave, curve = (Chart(_CHARTS, height, len(sound.heard)) for height in (_WAVE, _CURVE))
    wave.waveform(sound.speech.read(), sound.speech.rate / sound.fps)
    curve.heard(sound.heard)
    page.text(_MARGIN, _WAVE // 2 - 9, "sound", 15)
    page.text(_MARGIN, _WAVE + _CURVE // 2 - 9, "openness expected", 15)
    page.put(wave.image(), _LEFT)
    page.put(curve.image(), _LEFT, _WAVE + 2)
    page.top += _WAVE + _CURVE + 6
    length = len(sound.heard) / sound.fps
    for tick in np.arange(0, length, 0.5).tolist():
        page.text(_LEFT + round(tick / length * _CHARTS), 0, f"{tick:g} s", 13, FAINT, "ma" if tick else "la")
    page.top += 24


def _row(page: _Page, row: Row, sound: Sound) -> None:
    """Draw both curves, and below them the frames at the moments."""
    curves, leaders = Chart(_CHARTS, _CURVE, len(sound.heard)), Chart(_CHARTS, _LEADERS, len(sound.heard), PAPER)
    moments = sound.moments[:COLUMNS]
    places = [column * (CELL + _GAP) for column in range(len(moments))]
    curves.heard(sound.heard)
    curves.seen(row.seen, moments)
    leaders.leaders(moments, [place + CELL / 2 for place in places])
    for number, line in enumerate(row.lines):
        page.text(_MARGIN, number * 20, line, 16 if number == 0 else 14, INK if number == 0 else FAINT)
    page.put(curves.image(), _LEFT)
    page.put(leaders.image(), _LEFT, _CURVE)
    page.put(_cell(row.lead), _MARGIN, _CURVE + _LEADERS)
    for frame, place in zip(moments, places, strict=True):
        page.put(_cell(row.frames[frame]), _LEFT + place, _CURVE + _LEADERS)
    page.top += _row_height()


def _cell(picture: UInt8) -> Image.Image:
    return Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.LANCZOS)
