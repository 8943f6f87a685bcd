"""Frames of any format are converted to the rate and the channels of the first."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.recordings import level, read_recording
from tests.support.sound_files import tone, write_sound
from vexpress_rt.errors import AudioError

RATE = 16000


@pytest.mark.parametrize(
    ("name", "codec", "channels"),
    [
        ("a.m4a", "aac", 8),
        ("a.mkv", "libopus", 8),
        ("a.flac", "flac", 8),
        ("a.wv", "wavpack", 9),
        ("a.wav", "pcm_s16le", 8),
        ("a.mov", "pcm_f32le", 16),
        ("a.caf", "pcm_s32le", 64),
    ],
)
def test_any_number_of_channels_is_read(tmp_path: Path, name: str, codec: str, channels: int) -> None:
    """PyAV's `AudioFrame.planes` reads beyond its list for eight or more channels."""
    sound = np.zeros((channels, 24_000), np.float32)
    sound[2] = tone(0.5, 48000)
    layout = "hexadecagonal" if channels == 16 else None
    samples, notes = read_recording(write_sound(tmp_path / name, codec, sound, 48000, layout=layout))
    assert notes == ()
    assert len(samples) == 8000
    expected = 1 if channels in (8, 16) else 1 / channels  # the centre of known speakers, or the mean
    assert level(samples[1000:7000]) == pytest.approx(expected * 0.3 / np.sqrt(2), rel=0.03)


def test_channels_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mov", "pcm_f32le", np.zeros((65, 800), np.float32), 8000)
    with pytest.raises(AudioError, match="has 65 channels; expected 1 to 64"):
        read_recording(path)


@pytest.mark.parametrize("codec", ["mp3", "aac"])
@pytest.mark.parametrize(("rate", "channels"), [(22050, 1), (44100, 2), (48000, 2)])
def test_a_change_of_rate_or_channels_is_converted(tmp_path: Path, codec: str, rate: int, channels: int) -> None:
    encoder, container = ("libmp3lame", None) if codec == "mp3" else ("aac", "adts")
    pieces = [
        write_sound(
            tmp_path / f"{i}.{codec}", encoder, np.repeat(tone(1.5, r)[None], c, axis=0), r, container=container
        )
        for i, (r, c) in enumerate([(44100, 1), (rate, channels)])
    ]
    for order in (pieces, pieces[::-1]):
        path = tmp_path / f"joined.{codec}"
        path.write_bytes(b"".join(piece.read_bytes() for piece in order))
        samples, notes = read_recording(path)
        assert len(samples) / RATE == pytest.approx(3.06, abs=0.07)
        assert level(samples[2000:20000]) == pytest.approx(0.21, abs=0.02)
        assert level(samples[28000:46000]) == pytest.approx(0.21, abs=0.02)
        assert re.search(
            r"1\.5\d seconds in, the sound changes to \d+ Hz, \w+( \(\d+ more changes?\))?; all of it is", notes[0]
        )
