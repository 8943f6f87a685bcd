"""Channels are mixed by speaker positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.recordings import assert_note, read_recording
from tests.support.sound_files import tone, write_sound

RATE = 16000


def test_the_centre_of_surround_keeps_its_level(tmp_path: Path) -> None:
    """FFmpeg's weights: the front at -3 dB, the sides at -6 dB, and no LFE."""
    for channel, weight in enumerate((0.5**0.5, 0.5**0.5, 1, 0, 0.5, 0.5)):
        sound = np.zeros((6, 8000), np.float32)
        sound[channel] = tone(0.5, RATE)
        path = write_sound(tmp_path / "a.flac", "flac", sound, RATE)
        if weight:
            np.testing.assert_allclose(read_recording(path)[0], weight * tone(0.5, RATE), atol=1e-3)
        else:  # the LFE alone: then it is what there is
            assert_note(read_recording(path)[1], "the mouth follows channel 4 of 6")
