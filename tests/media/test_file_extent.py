"""Truncated recordings and appended files are noted."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.support.recordings import assert_note, read_recording
from tests.support.sound_files import tone, write_sound

RATE = 16000


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.aiff", "pcm_s16be"),
        ("a.w64", "pcm_s16le"),
        ("a.caf", "pcm_s16le"),
        ("a.flac", "flac"),
        ("a.mp3", "libmp3lame"),
        ("a.webm", "libopus"),
        ("a.flv", "aac"),
        ("a.avi", "mp3"),
        ("a.wv", "wavpack"),
        ("a.au", "pcm_s16be"),
        ("a.ogg", "libopus"),
    ],
)
def test_a_truncated_recording_is_noted(tmp_path: Path, name: str, codec: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 4 * 44100)).astype(np.float32)
    rate = 48000 if codec == "libopus" else 44100
    path = write_sound(tmp_path / name, codec, noise, rate)
    assert read_recording(path)[1] == ()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    samples, notes = read_recording(path)
    assert 0.9 < len(samples) / RATE < 3
    assert re.search(r"declares .* and has .*: it is truncated|last page is not marked .* truncated", notes[-1])


def test_a_header_without_a_length_is_no_truncation(tmp_path: Path) -> None:
    """As programs write it that record to a pipe."""
    content = bytearray(write_sound(tmp_path / "a.wav", "pcm_s16le", tone(1, RATE)[None], RATE).read_bytes())
    data = content.find(b"data")
    for size in (0, 0xFFFFFFFF, 0x7FFFFFFF):
        content[4:8] = content[data + 4 : data + 8] = struct.pack("<I", size)
        (tmp_path / "piped.wav").write_bytes(content)
        samples, notes = read_recording(tmp_path / "piped.wav")
        assert len(samples) == RATE
        assert notes == ()


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.aiff", "pcm_s16be"),
        ("a.w64", "pcm_s16le"),
        ("a.caf", "pcm_s16le"),
        ("a.m4a", "aac"),
        ("a.flv", "aac"),
    ],
)
def test_a_second_file_that_is_appended_is_noted_where_it_is_not_read(tmp_path: Path, name: str, codec: str) -> None:
    path = write_sound(tmp_path / name, codec, tone(1, 44100)[None], 44100)
    content = path.read_bytes()
    path.write_bytes(content + content)
    samples, notes = read_recording(path)
    assert len(samples) / RATE == pytest.approx(1, abs=0.05)
    assert_note(notes, rf"another recording follows at byte {len(content)} and is skipped, {len(content)} bytes: join")


@pytest.mark.parametrize(("name", "codec"), [("a.flac", "flac"), ("a.ogg", "libopus"), ("a.webm", "libopus")])
def test_a_second_file_that_is_appended_is_read_where_ffmpeg_reads_it(tmp_path: Path, name: str, codec: str) -> None:
    content = write_sound(tmp_path / name, codec, tone(1, 48000)[None], 48000).read_bytes()
    (tmp_path / name).write_bytes(content + content)
    assert len(read_recording(tmp_path / name)[0]) / RATE == pytest.approx(2, abs=0.02)
