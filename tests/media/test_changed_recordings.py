"""A sound file that changes while a video is made of it is noticed, whoever reads it, and named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.media.test_audio import write_wav
from tests.support.scenes import FAST, frames_of, photo, speech
from vexpress_rt import Generator
from vexpress_rt.errors import AudioError
from vexpress_rt.media.audio import load_audio, open_recording, sound
from vexpress_rt.media.audio_reader import sound_blocks
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
    (replace_by_longer, "was replaced by another file, of 256044 bytes since"),
    (overwrite, "was written to since"),
    (truncate, r"was written to, and has 64022 bytes instead of 128044 since"),
    (Path.unlink, "was removed since"),
]
each_change = pytest.mark.parametrize(("change", "message"), CHANGES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "speech.wav", noise(4), RATE)


def complaint(message: str) -> Any:
    return pytest.raises(AudioError, match=rf"speech\.wav {message}.*: leave the file alone while the video is made")


def changing(path: Path, change: Callable[[Path], None], at: tuple[str, int]) -> Callable[[str, int, int], None]:
    """A `progress` that changes the file when a stage has come so far."""

    def tell(stage: str, done: int, total: int) -> None:
        if (stage, done) == at:
            change(path)

    return tell


@each_change
@pytest.mark.parametrize("at", [("portrait", 1), ("audio", 1), ("denoise", 3), ("frames", 40)])
def test_no_video_is_written_of_a_recording_that_changes(
    generator: Generator, tmp_path: Path, path: Path, change: Callable[[Path], None], message: str, at: tuple[str, int]
) -> None:
    with complaint(message):
        generator.generate(photo(), path, output=tmp_path / "out.mp4", config=FAST, progress=changing(path, change, at))
    assert {file.name for file in tmp_path.iterdir()} <= {"speech.wav"}


@each_change
def test_a_stream_does_not_hear_another_recording_than_was_checked(
    generator: Generator, path: Path, change: Callable[[Path], None], message: str
) -> None:
    stream = generator.stream(photo(), path, config=FAST)
    change(path)
    with complaint(message):
        next(stream)


@each_change
def test_a_change_between_two_pieces_is_noticed_before_the_next(
    path: Path, change: Callable[[Path], None], message: str
) -> None:
    pieces = sound(open_recording(path, RATE))
    next(pieces)
    change(path)
    with complaint(message):
        next(pieces)


@each_change
def test_a_change_while_a_recording_is_read_first_is_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], message: str
) -> None:
    def slow(source: Path, *rest: Any) -> Any:
        for index, block in enumerate(sound_blocks(source, *rest)):
            if index == 2:
                change(source)
            yield block

    monkeypatch.setattr("vexpress_rt.media.audio.sound_blocks", slow)
    with complaint(message):
        open_recording(path, RATE)


def test_a_change_after_the_last_piece_is_noticed_at_the_end(path: Path) -> None:
    recording = open_recording(path, RATE)
    blocks = sound_blocks(path, recording.stamp)
    count = 0
    while count < recording.count:
        count += next(blocks)[0].shape[1]
    overwrite(path)
    with complaint("was written to since"):
        next(blocks)


def test_what_is_heard_and_not_written_may_change(generator: Generator, path: Path) -> None:
    """All of it was read by then."""
    expected = frames_of(generator.generate(photo(), path, config=FAST))
    tell = changing(path, overwrite, ("audio", 1))
    np.testing.assert_array_equal(frames_of(generator.generate(photo(), path, config=FAST, progress=tell)), expected)


def test_reading_a_file_is_no_change(path: Path) -> None:
    recording = open_recording(path, RATE)
    os.utime(path, ns=(0, path.stat().st_mtime_ns))
    path.chmod(0o400)
    assert sum(len(piece) for piece in sound(recording)) == recording.count
    assert (
        load_audio(path, RATE).stamp
        == recording.stamp
        == FileStamp(path.stat().st_ino, 128044, path.stat().st_mtime_ns)
    )


def test_samples_have_no_stamp() -> None:
    assert open_recording(speech(), RATE).stamp is None


def test_a_pipe_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match=r"pipe\.wav is a folder or a device; expected a sound or video file"):
        open_recording(tmp_path / "pipe.wav", RATE)
