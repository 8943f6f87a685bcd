"""Recordings say how long they are before they are read, and reading can be ended."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.support.sound_files import write_media, write_wav
from vexpress_rt.errors import CancelledError, ConfigError
from vexpress_rt.media import recording
from vexpress_rt.media.recording import open_recording
from vexpress_rt.utils.cancellation import cancellable

SECONDS = 20


def noise(seconds: float, rate: int = 16000) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (1, int(seconds * rate))).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "codec", "form", "declares"),
    [("a.wav", "pcm_s16le", "s16", True), ("a.m4a", "aac", "fltp", True), ("a.mp3", "libmp3lame", "fltp", False)],
)
def test_a_file_is_refused_by_its_declared_length_before_it_is_read(
    tmp_path: Path, name: str, codec: str, form: str, declares: bool
) -> None:
    found: list[Fraction] = []

    def refuse(seconds: Fraction) -> None:
        found.append(seconds)
        raise ConfigError("too long")

    def progress(done: int, total: int) -> None:
        raise AssertionError("it was read")

    path = write_media(tmp_path / name, codec, noise(SECONDS), 16000, form)
    if declares:
        with pytest.raises(ConfigError, match="too long"):
            open_recording(path, 16000, progress, check_length=refuse)
        assert SECONDS <= found[0] < SECONDS + 0.2
    else:  # an estimate does not refuse a file
        open_recording(path, 16000, check_length=refuse)


def test_a_length_that_the_file_is_too_small_for_does_not_refuse_it(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", "libopus", noise(1, 48000), 48000, "flt")
    content = bytearray(path.read_bytes())
    at = content.index(b"\x44\x89\x88") + 3  # the duration of Matroska, a float64 in milliseconds
    content[at : at + 8] = np.array(4 * 3600e3, ">f8").tobytes()
    path.write_bytes(content)
    lengths: list[Fraction] = []
    open_recording(path, 16000, check_length=lengths.append)
    assert lengths == []


def test_the_length_so_far_is_checked_while_a_recording_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_PROGRESS_SECONDS", 0)
    path = write_wav(tmp_path / "a.wav", noise(SECONDS), 16000)
    lengths: list[Fraction] = []
    open_recording(path, 16000, check_length=lengths.append)
    assert lengths[0] == lengths[-1] == SECONDS
    assert lengths[1:] == sorted(lengths[1:])
    assert len(lengths) > 10


@pytest.mark.parametrize("kind", ["file", "array", "integers"])
def test_reading_ends_before_the_next_block_once_it_is_cancelled(tmp_path: Path, kind: str) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    samples = noise(SECONDS)[0]
    source = {
        "file": write_wav(tmp_path / "a.wav", samples[None], 16000),
        "array": (samples, 16000),
        "integers": ((samples * 1000).astype(np.int16), 16000),
    }[kind]
    with cancellable(cancelled), pytest.raises(CancelledError):
        open_recording(source, 16000)
    assert asked == 4
