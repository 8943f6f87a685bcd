"""The time of sound and pictures of a file starts at the same moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.sound_files import tone, write_talking_picture
from vexpress_rt.media.recording import open_recording
from vexpress_rt.media.video_reader import read_frames

RATE = 16000


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("late", [-0.5, 0.0, 0.5])
def test_a_flash_and_a_click_at_once_stay_together(tmp_path: Path, name: str, late: float) -> None:
    """late: seconds from the first picture to the first sound; both come one second after the first picture."""
    sound = np.zeros(round((1.5 - late) * RATE), np.float32)
    click = round((1 - late) * RATE)
    sound[click : click + 800] = tone(0.05, RATE, 2000)
    path = write_talking_picture(tmp_path / name, sound[None], RATE, late, flash=10)
    pictures = list(read_frames(path).frames())
    flash = next(k for k, picture in enumerate(pictures) if picture.mean() > 100) / 10
    heard = int(np.argmax(np.abs(open_recording(path, RATE).read()) > 0.1)) / RATE
    assert flash == pytest.approx(1 + max(0.0, -late), abs=0.11)  # a frame, and a priming packet of AAC
    assert heard == pytest.approx(flash, abs=0.11)
