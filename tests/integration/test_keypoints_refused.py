"""Unusable keypoints are refused before any engine except the face detector is loaded."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.doubles.fakes import SHAPE, SMALL, FakeBackend, write_bundle
from tests.support import moving_spots
from tests.support.scenes import FAST, frames_of, photo, speech, spot, track
from vexpress_rt import Generator
from vexpress_rt.__main__ import main
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, FACE_DETECTOR, VideoShape
from vexpress_rt.errors import BundleNotFoundError, InputError, KeypointError, NoFaceError, VExpressError, VideoError

FACELESS = np.full((64, 64, 3), 90, np.uint8)


def faceless_video(folder: Path) -> Path:
    """Write a video of 0.4 s without a face."""
    return moving_spots.write(folder / "driving.mp4", range(12), pictures=[FACELESS] * 12)


def damaged_video(folder: Path) -> Path:
    (folder / "driving.mp4").write_bytes(bytes(range(256)) * 4)
    return folder / "driving.mp4"


def damaged_array(folder: Path) -> Path:
    (folder / "points.npy").write_bytes(b"\x93NUMPY but no more")
    return folder / "points.npy"


def points_outside(folder: Path) -> np.ndarray:
    return track(9) + 500


UNUSABLE = [
    (faceless_video, NoFaceError, "no face was found in any of the driving video's"),
    (damaged_video, VideoError, "It was taken for a driving video"),
    (damaged_array, KeypointError, "points.npy"),
    (points_outside, KeypointError, "wholly outside the picture"),
]


@pytest.mark.parametrize(("make", "error", "message"), UNUSABLE)
@pytest.mark.parametrize("call", ["stream", "generate", "live"])
def test_unusable_keypoints_are_refused_before_engines_are_loaded(
    generator: Generator, backend: FakeBackend, tmp_path: Path, call: str,
    make: Callable[[Path], Any], error: type[VExpressError], message: str,
) -> None:  # fmt: skip
    arguments = (photo(),) if call == "live" else (photo(), speech())
    with pytest.raises(error, match=message):
        getattr(generator, call)(*arguments, keypoints=make(tmp_path), config=FAST)
    assert backend.loads == [FACE_DETECTOR]


def test_of_a_photo_whose_face_is_given_not_even_the_detector_is_loaded(
    generator: Generator, backend: FakeBackend, tmp_path: Path
) -> None:
    read = generator.read_photo(photo(), keypoints=spot(32, 30))
    with pytest.raises(KeypointError):
        generator.generate(read, speech(), keypoints=damaged_array(tmp_path), config=FAST)
    assert backend.loads == []


def test_noise_of_a_wrong_shape_is_refused_before_engines_are_loaded(
    generator: Generator, backend: FakeBackend
) -> None:
    with pytest.raises(InputError, match="noise"):
        generator.generate(photo(), speech(), noise=np.zeros((1, 4, 1, 2, 2), np.float32), config=FAST)
    assert backend.loads == [FACE_DETECTOR]


@pytest.mark.parametrize("call", ["generate", "live"])
def test_an_engine_that_the_bundle_lacks_is_named_before_a_driving_video_is_searched(
    tmp_path: Path, backend: FakeBackend, call: str
) -> None:
    held = [name for name in (*ENGINE_NAMES, FACE_DETECTOR) if name != "vae_decoder"]
    arguments = (photo(),) if call == "live" else (photo(), speech())
    with Generator(write_bundle(tmp_path / "lacking", held)) as generator:
        with pytest.raises(BundleNotFoundError, match="--engine vae_decoder"):
            getattr(generator, call)(*arguments, keypoints=faceless_video(tmp_path), config=FAST)
        assert len(backend.calls(FACE_DETECTOR)) == 1  # only for the photo


# Photos that are read but not encoded


@pytest.mark.parametrize("options", [{}, {"keypoints": spot(30, 28)}, {"crop": "none"}])
def test_a_photo_that_is_read_gives_the_frames_of_the_prepared_one(
    generator: Generator, options: dict[str, Any]
) -> None:
    picture, moving = photo(64, 96, 40, 30), track(9)
    read, prepared = generator.read_photo(picture, **options), generator.prepare(picture, **options)
    one = generator.generate(read, speech(), keypoints=moving, retarget="offset_retarget", config=FAST)
    other = generator.generate(prepared, speech(), keypoints=moving, retarget="offset_retarget", config=FAST)
    np.testing.assert_array_equal(frames_of(one), frames_of(other))
    assert one.notes == other.notes


def test_a_photo_that_was_read_for_another_size_is_refused(
    generator: Generator, backend: FakeBackend, tmp_path: Path
) -> None:
    folder = write_bundle(tmp_path / "wide", model=SMALL, shape=VideoShape(64, 128, SHAPE.frames))
    with Generator(folder) as other:
        read = other.read_photo(photo())
    with pytest.raises(InputError, match=r"cropped to \(64, 128\) .* size is \(64, 64\): read it again"):
        generator.generate(read, speech(), config=FAST)


# On the command line


@pytest.fixture
def command(fake_bundle: Path, backend: FakeBackend, tmp_path: Path) -> list[str]:
    """Arguments of `generate` with a photo without a face."""
    Image.fromarray(FACELESS).save(tmp_path / "grey.png")
    Image.fromarray(photo()).save(tmp_path / "face.png")
    with wave.open(str(tmp_path / "s.wav"), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(bytes(9600))
    np.save(tmp_path / "points.npy", track(9))
    files = ["--audio", str(tmp_path / "s.wav"), "--output", str(tmp_path / "out.mp4"), "--steps", "2", "--quiet"]
    return ["generate", "--engines", str(fake_bundle), "--overlap", "2", *files, "--image", str(tmp_path / "grey.png")]


def refusal(command: list[str], capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Run a command that is refused and return its one line of output."""
    assert main([*command, *options]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_photo_without_a_face_is_one_message_whose_cures_work(
    command: list[str], backend: FakeBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(command, capsys)
    assert line.startswith("error: fix_face needs the place of the face")
    assert "--image-keypoints" in line
    assert "no_retarget" not in line
    assert backend.loads == [FACE_DETECTOR]
    assert main([*command, "--image-keypoints", "20,24", "44,24", "32,39"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["no_retarget", "offset_retarget"])
def test_a_mode_that_follows_keypoints_is_one_message_whose_cures_work(
    command: list[str], backend: FakeBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    line = refusal(command, capsys, "--retarget", mode)
    assert line.startswith(f"error: retarget is '{mode}', which follows keypoints, and there are none: give")
    assert "--keypoints" in line
    assert "'fix_face', which holds the face still and needs a face in the photo, or its keypoints" in line
    assert backend.loads == []
    points = ["--keypoints", str(tmp_path / "points.npy"), "--retarget", mode]
    if mode == "no_retarget":
        assert main([*command, *points]) == 0
        assert capsys.readouterr().err == ("warning: photo: no face was found in it, so it is cut around its centre\n")
    assert main([*command, *points, "--image-keypoints", "20,24", "44,24", "32,39"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_command_line_refuses_a_driving_video_before_engines_are_loaded(
    command: list[str], backend: FakeBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--image", str(tmp_path / "face.png"), "--keypoints", str(faceless_video(tmp_path))]
    assert "no face was found in any of the driving video's" in refusal(command, capsys, *options)
    assert backend.loads == [FACE_DETECTOR]
    assert not (tmp_path / "out.mp4").exists()
