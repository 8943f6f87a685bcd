"""A photo without a known face raises one message with every remedy, before engines are loaded; notes on two faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.fakes import FakeBackend, red_spots, write_bundle
from tests.support.scenes import FAST, photo, speech, track
from vexpress_rt.__main__ import main
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, FACE_DETECTOR
from vexpress_rt.errors import ConfigError, NoFaceError
from vexpress_rt.pipeline.generator import Generator

FACELESS = np.full((48, 96, 3), 90, np.uint8)


def refused(generator: Generator, call: str, source: Any, **options: Any) -> str:
    """Return the message of `stream`, `generate` or `live` for a refused photo."""
    arguments = (source,) if call == "live" else (source, speech())
    with pytest.raises(NoFaceError) as caught:
        getattr(generator, call)(*arguments, config=FAST, **options)
    return str(caught.value)


@pytest.mark.parametrize("call", ["stream", "generate", "live"])
def test_a_photo_without_a_face_is_refused_before_engines_are_loaded(
    generator: Generator, backend: FakeBackend, call: str
) -> None:
    message = refused(generator, call, FACELESS)
    assert backend.loads == [FACE_DETECTOR]
    assert len(backend.calls(FACE_DETECTOR)) == 1
    for text in ("fix_face needs", "no face was found in its 96 x 48 pixels", "searched scaled to 512", "upright",
                 "cropped closer", r"prepare(..., keypoints=) or --image-keypoints"):  # fmt: skip
        assert text in message
    assert "no_retarget" not in message  # which would need keypoints, and there are none


@pytest.mark.parametrize("mode", ["fix_face", "offset_retarget", "naive_retarget"])
def test_with_keypoints_no_retarget_is_a_remedy_that_works(
    generator: Generator, backend: FakeBackend, mode: str
) -> None:
    message = refused(generator, "generate", FACELESS, keypoints=track(9), retarget=mode)
    assert message.startswith(f"{mode} needs")
    assert "or use no_retarget, which follows the driving keypoints as they are" in message
    assert backend.loads == [FACE_DETECTOR]
    assert generator.generate(FACELESS, speech(), keypoints=track(9), retarget="no_retarget", config=FAST).length == 9


def test_a_portrait_without_a_face_is_refused_before_engines_are_loaded(
    generator: Generator, backend: FakeBackend
) -> None:
    portrait = generator.prepare(FACELESS)
    loaded = list(backend.loads)
    assert "its 96 x 48 pixels" in refused(generator, "generate", portrait)
    assert backend.loads == loaded


def test_a_bundle_without_a_detector_says_so_and_suggests_no_crop(tmp_path: Path, backend: FakeBackend) -> None:
    generator = Generator(write_bundle(tmp_path / "blind", ENGINE_NAMES))
    message = refused(generator, "generate", photo())
    assert "the bundle has no face detector" in message
    assert "--image-keypoints" in message
    assert "--engine face_detector" in message
    assert "cropped" not in message
    assert backend.loads == []


def test_prepare_checks_the_face_for_a_retargeting_mode(generator: Generator, backend: FakeBackend) -> None:
    with pytest.raises(NoFaceError, match="fix_face needs the place of the face"):
        generator.prepare(FACELESS, retarget="fix_face")
    assert backend.loads == [FACE_DETECTOR]
    assert generator.prepare(FACELESS, retarget="no_retarget").keypoints is None
    assert generator.prepare(photo(), retarget="fix_face").keypoints is not None
    with pytest.raises(ConfigError, match="retarget is 'fix'; expected one of"):
        generator.prepare(photo(), retarget="fix")


def test_the_command_line_refuses_it_before_engines_are_loaded(
    fake_bundle: Path, backend: FakeBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.fromarray(FACELESS).save(tmp_path / "a.png")
    (tmp_path / "a.wav").write_bytes(b"not looked at")
    files = ["--image", str(tmp_path / "a.png"), "--audio", str(tmp_path / "a.wav")]
    assert main(["generate", "--engines", str(fake_bundle), *files, "--output", str(tmp_path / "a.mp4")]) == 1
    assert "error: fix_face needs the place of the face" in capsys.readouterr().err
    assert backend.loads == [FACE_DETECTOR]


def test_a_second_face_of_similar_size_is_noted(generator: Generator) -> None:
    picture = red_spots(photo(height=128, width=256, x=60, y=60), (200, 64))
    notes = generator.generate(picture, speech(0.1), config=FAST).notes
    assert len(notes) == 1
    assert notes[0].startswith("photo: the largest face was taken, ")
    assert notes[0].endswith("another is of similar size: give keypoints to choose the face")


def test_a_face_alone_and_a_small_second_one_are_not_worth_a_note(generator: Generator) -> None:
    assert generator.generate(photo(), speech(0.1), config=FAST).notes == ()
    big = [(60 + dx, 60 + dy) for dx in (-6, 0, 6) for dy in (-6, 0, 6)]
    picture = red_spots(photo(height=128, width=256, x=200, y=64), *big)
    assert generator.prepare(picture).notes == ()
