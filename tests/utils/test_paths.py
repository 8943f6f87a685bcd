"""Paths given by a caller."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vexpress_rt.errors import AudioError, KeypointError, OutputError
from vexpress_rt.face.keypoint_track import load_keypoints
from vexpress_rt.media.video_writer import check_output
from vexpress_rt.utils.paths import input_file, same_file


def read(path: object) -> Path:
    return input_file(path, "the audio", "a sound file", AudioError)  # type: ignore[arg-type]


def test_a_regular_file_is_taken_by_text_and_by_path(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert read(tmp_path / "a.wav") == read(str(tmp_path / "a.wav")) == tmp_path / "a.wav"


@pytest.mark.parametrize(
    "name", ["none.wav", "a" * 300, "a\0b", "a\ud800"], ids=["missing", "long", "NUL", "surrogate"]
)
def test_a_name_without_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AudioError, match="expected a sound file: check the path"):
        read(str(tmp_path / name))


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.npy")
    with pytest.raises(KeypointError, match="is a folder or a device"):
        load_keypoints(tmp_path / "f.npy")


@pytest.mark.parametrize("name", ["a" * 300 + ".mp4", "a\0b.mp4", "a\ud800.mp4"], ids=["long", "NUL", "surrogate"])
def test_an_output_that_the_system_cannot_name_is_refused_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="choose another name"):
        check_output(str(tmp_path / name))


def test_a_file_is_known_by_any_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert same_file(str(tmp_path / "b"), tmp_path / "a")
    assert not same_file(tmp_path / "c", tmp_path / "a")
    assert not same_file(b"bytes of a photo", tmp_path / "a")
