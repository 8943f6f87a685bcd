"""Reading of recordings, and assertions on what was read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from vexpress_rt.media.recording import open_recording

RATE = 16000


def read_recording(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the samples of a file at RATE, (n,) float32, and the notes of reading it."""
    recording = open_recording(path, RATE)
    return recording.read(), recording.notes


def level(samples: np.ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def assert_note(notes: tuple[str, ...], pattern: str) -> None:
    """Assert that there is one note, which matches."""
    assert len(notes) == 1, notes
    assert re.search(pattern, notes[0]), notes
