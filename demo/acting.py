"""The motion of a drawn head that talks: it turns, nods and tilts smoothly, the same way in each run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces import Pose

_SWINGS = {"yaw": (0.26, 0.35, 0.0), "pitch": (0.08, 0.6, 0.2), "roll": (0.09, 0.3, 0.1), "x": (0.045, 0.35, 0.0)}
_SWINGS |= {"y": (0.02, 0.6, 0.2)}  # for each field of a pose: amplitude, frequency in Hz, phase as a share of a period
_BLINK = 1.4, 0.16  # seconds: middle and duration


def act(mouth: NDArray[np.floating[Any]], fps: float, *, mirrored: bool = False, scale: float = 1.0) -> list[Pose]:
    """Return one pose for each frame.

    Args:
        mouth: (L, 3), shape of the mouth by frame: openness, width and rounding.
        fps: Frames a second.
        mirrored: Whether the head first moves to the left instead of to the right.
        scale: Size of the head, as in `Pose`.
    """
    seconds = (np.arange(len(mouth)) + 0.5) / fps
    tracks = {
        name: amplitude * np.sin(2 * np.pi * (frequency * seconds + phase))
        for name, (amplitude, frequency, phase) in _SWINGS.items()
    }
    for name in ("yaw", "roll", "x") if mirrored else ():
        tracks[name] = -tracks[name]
    tracks |= {name: mouth[:, column] for column, name in enumerate(("mouth", "width", "rounding"))}
    tracks["blink"] = np.clip(2 - 2 * abs(seconds - _BLINK[0]) / _BLINK[1], 0, 1)
    return [Pose(scale=scale, **{name: float(track[i]) for name, track in tracks.items()}) for i in range(len(mouth))]
