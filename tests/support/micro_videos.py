"""Videos of the micro model: of a photo with known keypoints, and a tone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.scenes import frames_of, photo, speech
from vexpress_rt.config import GenerationConfig
from vexpress_rt.pipeline.generator import Generator, Video

RATE = 8000
POINTS = np.array([[8, 6], [16, 6], [12, 10]], np.float32)


def make(generator: Generator, seconds: float = 0.2, output: Path | None = None, progress: Any = None,
         **options: Any) -> Video:  # fmt: skip
    """A video of a photo with known keypoints."""
    config = GenerationConfig(**{"steps": 2, "overlap": 1, **options})
    portrait = generator.prepare(photo(), keypoints=POINTS)
    return generator.generate(
        portrait, speech(seconds, RATE), keypoints=POINTS[None], config=config, output=output, progress=progress
    )


def generate(generator: Generator, **options: Any) -> np.ndarray:
    """Its frames."""
    return frames_of(make(generator, **options))
