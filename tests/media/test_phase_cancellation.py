"""One channel is used alone where channels cancel each other; others are mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.recordings import assert_note, level
from tests.support.sound_files import tone, write_sound
from vexpress_rt.media.phase_cancellation import CancellationDetector
from vexpress_rt.media.recording import open_recording

RATE = 16000
TIME = np.arange(3 * RATE) / RATE
VOICED = tone(3, RATE) * (1 + np.sin(2 * np.pi * 4 * TIME)).astype(np.float32) / 2


def is_one_of(samples: np.ndarray, sides: np.ndarray) -> bool:
    return any(np.array_equal(samples, side) for side in sides)


@pytest.mark.parametrize("name", ["a.flac", "a.wav", "a.m4a", ""])
def test_one_channel_is_used_if_left_and_right_cancel_each_other(tmp_path: Path, name: str) -> None:
    sound = np.stack([0.8 * tone(0.5, RATE), -tone(0.5, RATE)])
    source: Any = (sound, RATE)
    if name:
        source = write_sound(
            tmp_path / name, "aac" if name == "a.m4a" else name[2:].replace("wav", "pcm_s16le"), sound, RATE
        )
    samples = open_recording(source, RATE).read()
    assert level(samples[1000:7000] + tone(0.5, RATE)[1000:7000]) < 0.01
    assert_note(open_recording(source, RATE).notes, "channels cancel each other; the mouth follows channel 2 of 2")


@pytest.mark.parametrize(
    "shared",
    [
        np.float32(0.2),
        (0.15 * np.sin(2 * np.pi * 50 * TIME)).astype(np.float32),
        np.random.default_rng(0).normal(0, 0.02, 3 * RATE).astype(np.float32),
    ],
    ids=["offset", "hum", "noise"],
)
def test_sound_in_both_sides_does_not_hide_that_they_are_inverted(shared: np.ndarray) -> None:
    sides = np.stack([VOICED + shared, -VOICED + shared])
    recording = open_recording((sides, RATE), RATE)
    assert is_one_of(recording.read(), sides)
    assert recording.voice
    assert_note(recording.notes, "channels cancel each other")


def test_one_side_is_used_where_a_part_is_inverted() -> None:
    sides = np.stack([VOICED, np.where(TIME < 1.5, 1, -1).astype(np.float32) * VOICED])
    assert is_one_of(open_recording((sides, RATE), RATE).read(), sides)


@pytest.mark.parametrize("cuts", [7, 1000, 30_000])
def test_the_sizes_of_pieces_do_not_change_the_decision(cuts: int) -> None:
    sides = np.stack([VOICED, -0.9 * VOICED])
    found = []
    for size in (cuts, 48_000):
        detector = CancellationDetector(np.full(2, 0.5), RATE)
        for start in range(0, sides.shape[1], size):
            detector.add(sides[:, start : start + size])
        found.append(detector.loudest())
    assert found == [0, 0]


def test_channels_of_clips_shorter_than_a_block_are_compared_too() -> None:
    for count in (1, 20, 700):
        short = VOICED[1000 : 1000 + count] + np.float32(0.01)
        assert open_recording((np.stack([short] * min(2, count)), RATE), RATE).notes == ()
    inverted = open_recording((np.stack([VOICED[:700], -VOICED[:700]]), RATE), RATE)
    np.testing.assert_array_equal(inverted.read(), VOICED[:700])


@pytest.mark.parametrize("left", [0.0, 1.0, -0.2])
def test_channels_that_do_not_cancel_are_averaged(left: float) -> None:
    sound = np.stack([left * tone(0.5, RATE), tone(0.5, RATE)])
    recording = open_recording((sound, RATE), RATE)
    np.testing.assert_array_equal(recording.read(), sound.mean(axis=0, dtype=np.float64).astype(np.float32))
    assert recording.notes == ()
    assert open_recording((np.zeros((2, 900), np.float32), RATE), RATE).notes == ()
