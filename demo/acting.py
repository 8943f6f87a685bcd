"""Move a drawn head while it talks: it turns, nods and tilts, smoothly and always in the same way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces import Pose

_SWINGS = {"yaw": (0.26, 0.35, 0.0), "pitch": (0.08, 0.6, 0.2), "roll": (0.09, 0.3, 0.1), "x": (0.045, 0.35, 0.0)}
_SWINGS |= {"y": (0.02, 0.6, 0.2)}  # of a pose: reach, swings a second, share of a swing that it is ahead
_BLINK = 1.4, 0.16  # seconds: when, and how long


def act(mouth: NDArray[np.floating[Any]], fps: float, *, mirrored: bool = False, scale: float = 1.0) -> list[Pose]:
    """Return one pose for each frame.

    Args:
        mouth: (L, 3): openness, width and rounding by frame.
        fps: Frames a second.
        mirrored: Whether the head first moves to the left instead of to the right.
        scale: Size of the head, as in `Pose`.
    """
    seconds = (np.arange(len(mouth)) + 0.5) / fps
    tracks = {
        name: reach * np.sin(2 * np.pi * (rate * seconds + ahead)) for name, (reach, rate, ahead) in _SWINGS.items()
    }
    for name in ("yaw", "roll", "x") if mirrored else ():
        tracks[name] = -tracks[name]
    tracks |= {name: mouth[:, column] for column, name in enumerate(("mouth", "width", "rounding"))}
    tracks["blink"] = np.clip(2 - 2 * abs(seconds - _BLINK[0]) / _BLINK[1], 0, 1)
    return [Pose(scale=scale, **{name: float(track[i]) for name, track in tracks.items()}) for i in range(len(mouth))]
