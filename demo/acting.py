"""How a drawn head moves while it talks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces import Pose


def frame_count(samples: NDArray[np.float32], rate: int, fps: int) -> int:
    """Frames of a video as long as the sound."""
    return math.ceil(len(samples) * fps / rate)


def act(samples: NDArray[np.float32], rate: int, fps: int) -> list[Pose]:
    """One pose a frame: the head turns from side to side and nods, the mouth opens with the loudness of the speech."""
    count = frame_count(samples, rate, fps)
    seconds = np.arange(count) / fps
    yaw, pitch = 0.3 * np.sin(2 * np.pi * 0.4 * seconds), 0.12 * np.sin(2 * np.pi * 0.9 * seconds)
    roll, x = 0.08 * np.sin(2 * np.pi * 0.3 * seconds + 1), 0.05 * np.sin(2 * np.pi * 0.4 * seconds)
    y = 0.03 * np.sin(2 * np.pi * 0.9 * seconds)
    mouth = loudness(samples, rate, fps)
    blink = ((seconds % 2.5) > 2.5 - 1.5 / fps).astype(float)
    tracks = {"yaw": yaw, "pitch": pitch, "roll": roll, "x": x, "y": y, "mouth": mouth, "blink": blink}
    return [Pose(**{name: float(track[frame]) for name, track in tracks.items()}) for frame in range(count)]


def loudness(samples: NDArray[np.float32], rate: int, fps: int) -> NDArray[np.float64]:
    """Root mean square in each frame's time, (frames,), as a share of the loudest."""
    padded = np.pad(samples.astype(float), (0, rate))
    edges = np.arange(frame_count(samples, rate, fps) + 1) * rate // fps
    power = np.diff(np.concatenate([[0.0], np.cumsum(padded**2)])[edges]) / np.diff(edges)
    level: NDArray[np.float64] = np.sqrt(power)
    return level / max(float(level.max()), 1e-9)
