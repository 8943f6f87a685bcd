"""Photos, speech and motion that the tests of the generator start from, for the fake engines of `fakes.py`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.doubles.fakes import SPOT, red_spots
from vexpress_rt import FrameStream
from vexpress_rt.config import GenerationConfig
from vexpress_rt.pipeline.generator import Video

FAST = GenerationConfig(steps=2, overlap=2)
RATE = 16000  # Hz, of the speech


def photo(height: int = 64, width: int = 64, x: float = 32, y: float = 30) -> np.ndarray:
    """A grey gradient with what the fake detector takes for a face at (x, y)."""
    rows, columns = np.mgrid[:height, :width]
    grey = (40 + 100 * rows / height + 60 * columns / width).astype(np.uint8)
    return red_spots(np.repeat(grey[..., None], 3, axis=2), (x, y))


def spot(x: float, y: float) -> np.ndarray:
    """What the fake detector finds at (x, y): left eye, right eye, nose."""
    return SPOT[:3] + np.array([x, y], np.float32)


def speech(seconds: float = 0.3, rate: int = RATE) -> tuple[np.ndarray, int]:
    """A tone that swells; `seconds` are cut to whole samples."""
    t = np.arange(int(seconds * rate)) / rate
    return (0.8 * np.sin(2 * np.pi * 200 * t) * t / max(seconds, 0.01)).astype(np.float32), rate


def frames_of(video: Video) -> np.ndarray:
    assert video.frames is not None
    return video.frames


def track(length: int) -> np.ndarray:
    """A face that moves to the right."""
    face = np.array([[22, 26], [42, 24], [33, 40]], np.float32)
    return np.stack([face + np.array([frame, 0], np.float32) for frame in range(length)])


def read_back(path: Path) -> tuple[np.ndarray, Fraction | None, int, int]:
    """Frames, frames a second, samples of sound and their rate."""
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
        sound = container.streams.audio[0].sample_rate
    return np.stack(pictures), rate, samples, sound


def collect(stream: FrameStream) -> np.ndarray:
    with stream:
        return np.stack(list(stream))
