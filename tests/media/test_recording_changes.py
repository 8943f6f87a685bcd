"""A sound file is decoded once: a change during that is noticed and named, a later one makes no difference."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.scenes import FAST, frames_of, photo, speech
from tests.support.sound_files import write_wav
from vexpress_rt import Generator
from vexpress_rt.errors import AudioError
from vexpress_rt.media.audio_reader import sound_blocks
from vexpress_rt.media.ffmpeg import open_media
from vexpress_rt.media.recording import open_recording
from vexpress_rt.types import FileStamp

RATE = 16000


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (1, round(seconds * RATE)))


def replace_by_longer(path: Path) -> None:
    write_wav(path.with_name("new.wav"), noise(8), RATE).replace(path)


def overwrite(path: Path) -> None:
    stamp = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:44] + content[:43:-1])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))  # a coarse clock would tell no difference


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (replace_by_longer, "was replaced by another file, of 256044 bytes while"),
    (overwrite, "was written to while"),
    (truncate, r"was written to, and has 64022 bytes instead of 128044 while"),
    (Path.unlink, "was removed while"),
]
each_change = pytest.mark.parametrize(("change", "message"), CHANGES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "speech.wav", noise(4), RATE)


def complaint(message: str) -> Any:
    return pytest.raises(AudioError, match=rf"speech\.wav {message}.*: leave it alone until it is read")


def changing(path: Path, change: Callable[[Path], None], at: tuple[str, int]) -> Callable[[str, int, int], None]:
    """A `progress` that changes the file when a stage has come so far."""

    def progress(stage: str, done: int, total: int) -> None:
        if (stage, done) == at:
            change(path)

    return progress


@each_change
@pytest.mark.parametrize("at", [("portrait", 1), ("audio", 1), ("denoise", 3), ("frames", 40)])
def test_a_recording_that_changes_after_it_was_read_makes_the_same_video(
    generator: Generator, tmp_path: Path, path: Path, change: Callable[[Path], None], message: str, at: tuple[str, int]
) -> None:
    expected, output = tmp_path / "expected.mp4", tmp_path / "out.mp4"
    generator.generate(photo(), path, output=expected, config=FAST)
    before = path.read_bytes()
    generator.generate(photo(), path, output=output, config=FAST, progress=changing(path, change, at))
    assert not path.exists() or path.read_bytes() != before
    assert output.read_bytes() == expected.read_bytes()


@each_change
def test_a_stream_takes_the_recording_that_was_checked(
    generator: Generator, path: Path, change: Callable[[Path], None], message: str
) -> None:
    expected = frames_of(generator.generate(photo(), path, config=FAST))
    with generator.stream(photo(), path, config=FAST) as stream:
        change(path)
        np.testing.assert_array_equal(list(stream), expected)


@each_change
def test_samples_are_read_after_a_change_as_they_were(path: Path, change: Callable[[Path], None], message: str) -> None:
    recording, expected = open_recording(path, RATE), open_recording(path, RATE).read()
    change(path)
    np.testing.assert_array_equal(recording.read(), expected)


def test_a_video_decodes_its_recording_once(
    generator: Generator, tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def count(file: Path, *rest: Any) -> Any:
        opened.append(file.name)
        return open_media(file, *rest)

    monkeypatch.setattr("vexpress_rt.media.audio_reader.open_media", count)
    generator.generate(photo(), path, output=tmp_path / "out.mp4", config=FAST)
    assert opened == ["speech.wav"]


@each_change
def test_a_change_while_a_recording_is_read_first_is_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], message: str
) -> None:
    def slow(source: Path, *rest: Any) -> Any:
        for index, block in enumerate(sound_blocks(source, *rest)):
            if index == 2:
                change(source)
            yield block

    monkeypatch.setattr("vexpress_rt.media.recording.sound_blocks", slow)
    with complaint(message):
        open_recording(path, RATE)


def test_a_change_after_the_last_piece_is_noticed_at_the_end(path: Path) -> None:
    recording = open_recording(path, RATE)
    blocks = sound_blocks(path, FileStamp.of(path))
    count = 0
    while count < recording.count:
        count += next(blocks)[0].shape[1]
    overwrite(path)
    with complaint("was written to while"):
        next(blocks)


def test_frames_that_are_kept_do_not_change_with_the_recording(generator: Generator, path: Path) -> None:
    expected = frames_of(generator.generate(photo(), path, config=FAST))
    progress = changing(path, overwrite, ("audio", 1))
    found = frames_of(generator.generate(photo(), path, config=FAST, progress=progress))
    np.testing.assert_array_equal(found, expected)


def test_reading_a_file_is_no_change(path: Path) -> None:
    stamp = FileStamp.of(path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns))
    path.chmod(0o400)
    assert sum(block.shape[1] for block, _ in sound_blocks(path, stamp)) == 4 * RATE
    assert FileStamp.of(path) == stamp == FileStamp(path.stat().st_ino, 128044, path.stat().st_mtime_ns)


def test_samples_in_memory_have_no_stamp() -> None:
    """Arrays are read without any file."""
    samples, rate = speech()
    (block,) = (block for block, _ in sound_blocks((samples, rate), None))
    np.testing.assert_array_equal(block[0], samples)


def test_a_pipe_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match=r"pipe\.wav is a folder or a device; expected a sound or video file"):
        open_recording(tmp_path / "pipe.wav", RATE)
