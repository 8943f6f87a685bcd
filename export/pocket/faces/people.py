"""Random people: the features and colours of a person."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Colour = tuple[float, float, float]  # RGB, 0 to 255

# Colours are interpolated between neighbours in these rows.
SKINS: tuple[Colour, ...] = (
    (84, 54, 42), (112, 74, 54), (148, 101, 73), (183, 130, 96), (214, 161, 124), (230, 181, 147), (241, 203, 178),
    (246, 217, 200),
)  # fmt: skip
HAIRS: Mapping[str, tuple[Colour, ...]] = {
    "dark": ((30, 26, 28), (44, 32, 28), (70, 46, 34)),
    "brown": ((78, 50, 34), (112, 72, 44), (140, 100, 64)),
    "blond": ((160, 118, 68), (204, 164, 104), (232, 208, 156)),
    "red": ((108, 44, 28), (152, 66, 34), (196, 98, 48)),
    "grey": ((92, 92, 96), (150, 150, 152), (226, 224, 220)),
}
EYES: tuple[Colour, ...] = ((62, 42, 30), (92, 62, 38), (118, 94, 54), (76, 106, 76), (72, 108, 142), (108, 122, 134))

STYLES: Mapping[str, float] = {  # of hair, and their probabilities
    "bald": 0.06, "buzz": 0.09, "short": 0.14, "parting": 0.13, "quiff": 0.1, "curly": 0.14, "bob": 0.11, "long": 0.14,
    "bun": 0.09,
}  # fmt: skip
BEARDED = ("bald", "buzz", "short", "parting", "quiff")  # styles with which a beard is possible
BEARDS: Mapping[str, float] = {"none": 0.5, "stubble": 0.12, "moustache": 0.1, "goatee": 0.12, "full": 0.16}
GLASSES: Mapping[str, float] = {"none": 0.7, "round": 0.1, "square": 0.1, "half": 0.05, "wire": 0.05}
COLLARS: Mapping[str, float] = {"crew": 0.3, "vneck": 0.2, "shirt": 0.25, "turtleneck": 0.12, "hoodie": 0.13}
PATTERNS: Mapping[str, float] = {"plain": 0.6, "stripes": 0.2, "bars": 0.1, "dots": 0.1}
LIGHTS: Mapping[str, float] = {"glow": 0.3, "window": 0.2, "spot": 0.2, "horizon": 0.15, "bokeh": 0.15}

_FACTORS = {  # largest deviation of each proportion from 1
    "jaw": 0.13, "length": 0.08, "cheeks": 0.06, "eye_distance": 0.07, "eye_size": 0.14, "nose": 0.2, "mouth": 0.12,
    "lips": 0.3, "brows": 0.45, "volume": 0.1, "shoulders": 0.1,
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """The looks of a person, clothes and background included.

    Numbers without a comment are factors around 1, within `_FACTORS`. `trim` is the second colour of the clothes, and
    `wall` that of the background.
    """

    skin: Colour
    hair: Colour
    eyes: Colour
    lip: Colour
    clothes: Colour
    trim: Colour
    background: Colour
    wall: Colour
    frame: Colour  # of the glasses
    style: str  # of STYLES
    beard: str  # of BEARDS
    glasses: str  # of GLASSES
    collar: str  # of COLLARS
    pattern: str  # of PATTERNS
    lighting: str  # of LIGHTS
    light: int  # side of the light: -1 left, 1 right
    parting: int  # side of the parting
    fringe: bool  # hair over the forehead, for styles that allow it
    wave: float  # of long hair, 0 to 1
    chin: float  # 0 round to 1 square
    eye_tilt: float  # -1 (outer corners low) to 1
    brow_tilt: float  # -1 (outer ends low) to 1
    jaw: float  # width
    length: float  # of the face
    cheeks: float  # width
    eye_distance: float
    eye_size: float
    nose: float  # width
    mouth: float  # width
    lips: float  # fullness
    brows: float  # strength
    volume: float  # of the hair
    shoulders: float  # width


class _Chance:
    """Random numbers and colours of a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def number(self, low: float, high: float) -> float:
        return float(self._rng.uniform(low, high))

    def happens(self, share: float) -> bool:
        return self.number(0, 1) < share

    def choice(self, shares: Mapping[str, float]) -> str:
        return str(self._rng.choice(list(shares), p=list(shares.values())))

    def between(self, row: Sequence[Colour], low: float = 0, high: float = 1) -> Colour:
        """Return a random colour between neighbours of a row, or of a part of the row."""
        place = self.number(low, high) * (len(row) - 1)
        first = min(int(place), len(row) - 2)
        start, end = np.array(row[first : first + 2])
        return _colour(start + (place - first) * (end - start))

    def wheel(self, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
        """Return a colour of random hue and limited saturation."""
        hue, strength, bright = self.number(0, 1), self.number(*saturation), self.number(*value)
        return _colour(255 * np.array(colorsys.hsv_to_rgb(hue, min(strength, 0.42 / bright), bright)))


def random_person(seed: int) -> Person:
    """Make a random person.

    Args:
        seed: 0 to 2**63 - 1; equal seeds make equal people.
    """
    chance = _Chance(seed)
    look: dict[str, Any] = _colours(chance)
    look["style"] = style = chance.choice(STYLES)
    beard = chance.choice(BEARDS)
    look["beard"] = beard if style in BEARDED else "none"
    look |= {"glasses": chance.choice(GLASSES), "collar": chance.choice(COLLARS), "pattern": chance.choice(PATTERNS)}
    look["lighting"] = chance.choice(LIGHTS)
    look |= {side: 1 if chance.happens(0.5) else -1 for side in ("light", "parting")}
    look |= {"fringe": chance.happens(0.4), "wave": chance.number(0, 1), "chin": chance.number(0, 1)}
    look |= {tilt: chance.number(-1, 1) for tilt in ("eye_tilt", "brow_tilt")}
    look |= {name: chance.number(1 - spread, 1 + spread) for name, spread in _FACTORS.items()}
    painted = chance.happens(0.4) and look["beard"] == "none" and style not in BEARDED
    look["lip"] = _lip(look["skin"], chance.number(0.3, 0.9) if painted else 0.0, chance)
    return Person(**look)


def _colours(chance: _Chance) -> dict[str, Colour]:
    depth = chance.number(0, 1)
    skin = np.array(chance.between(SKINS, depth, depth))
    warmth, rose = chance.number(-1, 1), chance.number(-1, 1)
    skin = skin * (1 + 0.015 * rose, 1 - 0.025 * rose, 1 - 0.03 * warmth)
    # All combinations of hair and skin occur; dark hair is more frequent with dark skin.
    kind = "dark" if depth < 0.4 and chance.happens(0.6) else chance.choice(dict.fromkeys(HAIRS, 1 / len(HAIRS)))
    clothes, background = chance.wheel((0.05, 0.75), (0.2, 0.9)), chance.wheel((0.06, 0.5), (0.5, 0.92))
    return {
        "skin": _colour(skin),
        "hair": chance.between(HAIRS[kind]),
        "eyes": chance.between(EYES),
        "clothes": clothes,
        "trim": chance.wheel((0.05, 0.7), (0.25, 0.95)),
        "background": background,
        "wall": chance.wheel((0.06, 0.5), (0.45, 0.9)),
        "frame": chance.wheel((0.2, 0.8), (0.1, 0.5)),
    }


def _lip(skin: Colour, paint: float, chance: _Chance) -> Colour:
    """Return the colour of the lips: redder than the skin, or lipstick."""
    natural = np.array(skin) * (0.58, 0.4, 0.41) + np.array((82, 29, 34))
    painted = np.array(chance.between(((150, 36, 48), (176, 52, 84), (186, 84, 84))))
    return _colour(natural + paint * (painted - natural))


def _colour(values: Any) -> Colour:
    r, g, b = np.clip(values, 0, 255).tolist()
    return r, g, b
