"""Short clips, and their writing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from vexpress_rt.media.recording import Recording, open_recording
from vexpress_rt.media.video_writer import VideoWriter

SIZE = (32, 48)


def frames(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    return [np.full((*size, 3), 10 * k % 256, np.uint8) for k in range(count)]


def sound(count: int, rate: int, channels: int = 1) -> Recording:
    wave_form = 0.4 * np.sin(2 * np.pi * 440 * np.arange(count) / rate).astype(np.float32)
    return open_recording((np.stack([wave_form] * channels), rate), 16000)


def write(path: Path, pictures: list[np.ndarray], fps: Fraction, audio: Recording | None, quality: int = 18) -> Path:
    size = (pictures[0].shape[0], pictures[0].shape[1])
    with VideoWriter(path, size, fps, audio, quality) as writer:
        for picture in pictures:
            writer.write(picture)
    return path
