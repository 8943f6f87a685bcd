"""Files are opened and read with bounded memory and time, and every failure is an error of the tree."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from tests.support.clock import Clock
from tests.support.sound_files import tone, write_sound
from vexpress_rt.errors import AudioError
from vexpress_rt.media import audio_reader
from vexpress_rt.media.audio_reader import sound_blocks
from vexpress_rt.media.recording import open_recording

RATE = 16000


def test_a_declared_size_is_not_allocated_before_the_data_are_read(tmp_path: Path) -> None:
    """A tag that declares 2 GB, in a file of a hundred bytes."""
    whole = write_sound(tmp_path / "a.wav", "pcm_s16le", tone(0.01, 8000)[None], 8000).read_bytes()
    tag = b"LIST" + struct.pack("<I", 0x7FFFFF00) + b"INFOINAM" + struct.pack("<I", 0x7FFFFE00) + b"x"
    (tmp_path / "tag.wav").write_bytes(whole[:12] + tag)
    code = (
        "import sys, resource\nfrom vexpress_rt.errors import AudioError\nfrom vexpress_rt.media import recording\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    recording.open_recording(sys.argv[1], 16000)\nexcept AudioError as error:\n    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "tag.wav")], capture_output=True, text=True)
    told, grown = result.stdout.splitlines()
    assert "cannot be read" in told
    assert int(grown) < 400


def test_sound_that_takes_too_long_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_reader, "FREE_SECONDS", 0.0)
    monkeypatch.setattr(audio_reader, "SLOWEST", 10**9)
    path = write_sound(tmp_path / "a.flac", "flac", tone(1, RATE)[None], RATE)
    with pytest.raises(AudioError, match=r"seconds to read its first .* \(1 channels, 16000 Hz\).* convert it to mono"):
        open_recording(path, RATE)


def test_time_spent_between_two_blocks_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(audio_reader, "time", clock)
    path = write_sound(tmp_path / "a.flac", "flac", tone(0.5, RATE)[None], RATE)
    blocks = 0
    for _ in sound_blocks(path):
        blocks += 1
        clock.work(2 * audio_reader.FREE_SECONDS)
    assert blocks > 1


def test_time_spent_on_the_blocks_themselves_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(audio_reader, "time", clock)
    decode = audio_reader.AudioDecoder.frames

    def slow(decoder: audio_reader.AudioDecoder) -> Iterator[Any]:
        for frame in decode(decoder):
            clock.work(audio_reader.FREE_SECONDS + 1)
            yield frame

    monkeypatch.setattr(audio_reader.AudioDecoder, "frames", slow)
    path = write_sound(tmp_path / "a.flac", "flac", tone(0.5, RATE)[None], RATE)
    with pytest.raises(AudioError, match="took 61 seconds"):
        open_recording(path, RATE)


@pytest.mark.parametrize("error", [ValueError, RuntimeError, IndexError, SystemError, av.error.PermissionError])
def test_any_exception_of_pyav_on_opening_becomes_an_error_of_the_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error(1, "odd")

    monkeypatch.setattr(av, "open", fail)
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF")
    with pytest.raises(AudioError, match="cannot be read"):
        open_recording(path, RATE)


def test_exhausted_memory_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    path = write_sound(tmp_path / "a.wav", "pcm_s16le", tone(0.1, RATE)[None], RATE)
    monkeypatch.setattr("vexpress_rt.media.audio_converter.AudioConverter.convert", fail)
    with pytest.raises(AudioError, match="needs more memory than there is"):
        open_recording(path, RATE)
