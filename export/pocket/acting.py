"""Random poses and motion of drawn heads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces import Pose

REACH = {"yaw": 0.35, "pitch": 0.16, "roll": 0.16, "x": 0.09, "y": 0.07}  # largest absolute values of a pose
BLINK = 0.16  # seconds that a blink takes


def random_pose(rng: np.random.Generator) -> Pose:
    """Draw a random pose with a random mouth.

    Args:
        rng: Random generator of the pose.
    """
    moved = {name: float(rng.uniform(-reach, reach)) for name, reach in REACH.items()}
    mouth = float(rng.choice([0.0, rng.uniform(0, 1)]))
    blink = float(rng.choice([0.0, rng.uniform(0, 1)], p=[0.85, 0.15]))
    return Pose(
        **moved,
        scale=float(rng.uniform(0.86, 1.14)),
        mouth=mouth,
        width=float(rng.uniform(-1, 1)) * mouth,
        rounding=float(rng.uniform(0, 1)) * mouth,
        blink=blink,
    )


def random_motion(rng: np.random.Generator, mouth: NDArray[np.float32], fps: float) -> list[Pose]:
    """Make the poses of a clip in which the head moves smoothly.

    Args:
        rng: Random generator of the movement.
        mouth: Openness, width and rounding, (n, 3).
        fps: Frames per second.

    Returns:
        n poses.
    """
    count = len(mouth)
    seconds = np.arange(count) / fps
    tracks = {name: reach * _wander(rng, seconds) for name, reach in REACH.items()}
    scale = rng.uniform(0.88, 1.12) * (1 + 0.03 * _wander(rng, seconds))
    blink = np.clip(1 - np.abs(seconds - rng.uniform(-1, seconds[-1] + 2)) / (BLINK / 2), 0, 1)
    return [
        Pose(
            **{name: float(track[i]) for name, track in tracks.items()},
            scale=float(scale[i]),
            mouth=float(mouth[i, 0]),
            width=float(mouth[i, 1]),
            rounding=float(mouth[i, 2]),
            blink=float(blink[i]),
        )
        for i in range(count)
    ]


def _wander(rng: np.random.Generator, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a slow curve in [-1, 1]."""
    place = rng.uniform(-0.6, 0.6)
    swing, speed, phase = rng.uniform(0, 0.4), rng.uniform(0.1, 0.8), rng.uniform(0, 2 * np.pi)
    return np.asarray(place + swing * np.sin(2 * np.pi * speed * seconds + phase))
