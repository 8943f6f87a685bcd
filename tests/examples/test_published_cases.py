"""The published cases, from a folder laid out like a checkout of the public repository, with the small model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples import published_cases
from examples.published_cases import CASES, CELL, COLUMNS, GAP
from export.pocket.faces import Pose, draw_face, keypoints, random_person
from tests.examples.conftest import Inputs
from tests.support.scenes import read_back
from vexpress_rt import Generator

PERSON = random_person(1_000_027)
NAMES = ("scene_1_own_video", "scene_2_any_speech", "scene_3_full_motion")
LENGTH = 12  # frames: 0.4 s at 30 frames per second


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, inputs: Inputs) -> Path:
    """Three folders with everything that their cases need, and one without its keypoints."""
    root = tmp_path_factory.mktemp("checkout")
    points = [keypoints(PERSON, Pose(yaw=turn), 512, 512).astype(np.float32) for turn in np.linspace(-0.3, 0.3, 10)]
    for name in ("short_case/AOC", "short_case/tys", "emo/talk_hb", "vasa-1/l2"):
        folder = root / "test_samples" / name
        folder.mkdir(parents=True)
        Image.fromarray(draw_face(PERSON).image).save(folder / "ref.jpg")
        shutil.copy(inputs.speech, folder / "aud.mp3")  # the content counts, not the name
        shutil.copy(inputs.driving, folder / "gt.mp4")
        torch.save(points, folder / "kps.pth")
    (root / "test_samples" / "emo" / "talk_hb" / "kps.pth").unlink()
    return root


def run(checkout: Path, output: Path, *names: str) -> int:
    return published_cases.main([str(checkout), "--output", str(output), "--steps", "1", "--cases", *names])


@pytest.fixture(scope="module")
def published(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the videos and the sheet of three cases."""
    folder = tmp_path_factory.mktemp("published")
    assert run(checkout, folder, *NAMES) == 0
    return folder


def test_cases_become_videos_and_a_sheet(published: Path) -> None:
    frames = {name: read_back(published / f"{name}.mp4") for name in NAMES}
    for pictures, rate, samples, sound in frames.values():
        assert pictures.shape == (LENGTH, 128, 128, 3)
        assert rate == 30
        assert samples / sound == pytest.approx(0.4, abs=0.15)
    assert (frames["scene_1_own_video"][0] != frames["scene_2_any_speech"][0]).any()
    with Image.open(published / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    rows = 2 + 1 + 2  # with a row for the driving video, where there is one
    assert pixels.shape == (3 * 48 + rows * (CELL + GAP) + GAP, COLUMNS * (CELL + GAP) + GAP, 3)
    left = GAP + CELL + GAP  # of the first frame
    for column in range(COLUMNS - 1):
        start = left + column * (CELL + GAP)
        assert pixels[GAP + 46 : GAP + 46 + CELL, start : start + CELL].std() > 20


def test_a_case_whose_files_are_missing_is_named_and_the_others_are_made(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkout, tmp_path, "scene_1_long", "emo_talk_hb", "vasa_1_l2") == 1
    told = capsys.readouterr()
    assert "AOC lacks v_exprss_intro_chattts.mp3, AOC_raw_kps.pth" in told.out
    assert f"NOT MADE: {checkout / 'test_samples/emo/talk_hb'} lacks kps.pth: is that a whole checkout?" in told.out
    assert "1 of 3 cases made" in told.out
    assert "not made: scene_1_long, emo_talk_hb" in told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.png", "vasa_1_l2.mp4"]


def test_a_case_that_fails_is_named_with_its_error(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(checkout, tmp_path / "checkout"))
    (broken / "test_samples" / "short_case" / "tys" / "aud.mp3").write_bytes(b"no sound")
    assert run(broken, tmp_path / "out", "scene_2_any_speech") == 1
    assert "NOT MADE: " in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sheet.png"]


def test_keypoints_of_512_pixels_are_scaled_to_the_bundle(checkout: Path) -> None:
    path = checkout / "test_samples" / "vasa-1" / "l2" / "kps.pth"
    track = published_cases.read_keypoints(path)
    assert track.size == (512, 512)
    with Generator() as generator:
        photo = draw_face(PERSON).image
        portrait = generator.prepare(photo, crop="none")
        stream = generator.stream(portrait, (np.zeros(16000, np.float32), 16000), keypoints=track)
        with stream:
            np.testing.assert_allclose(stream.keypoints[0], track.points[0] / 4, rtol=1e-5)


def test_upstream_takes_the_public_noise(checkout: Path, published: Path, tmp_path: Path) -> None:
    options = ["--output", str(tmp_path), "--steps", "1", "--cases", "scene_3_full_motion", "--upstream"]
    assert published_cases.main([str(checkout), *options]) == 0
    ours, public = (read_back(folder / "scene_3_full_motion.mp4")[0] for folder in (published, tmp_path))
    assert ours.shape == public.shape
    assert (ours != public).any()


def test_the_settings_are_those_of_the_public_commands() -> None:
    cases = {case.name: case for case in CASES}
    assert len(cases) == len(CASES) == 28
    for case in CASES:
        config = case.config
        assert (config.steps, config.sampler, config.guidance_scale) == (25, "ddim", 3.5)
        assert (config.fps, config.overlap, config.seed) == (30, 4, 42)
        assert (case.keypoints is None) == (case.retarget == "fix_face")
    weights = {
        name: (case.config.reference_attention_weight, case.config.audio_attention_weight)
        for name, case in cases.items()
    }
    weaker = {"scene_1_long", "scene_3_full_motion"}
    assert {name for name, pair in weights.items() if pair == (1.0, 1.0)} == weaker
    assert {pair for name, pair in weights.items() if name not in weaker} == {(0.95, 3.0)}


def test_the_list_names_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert published_cases.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [case.name for case in CASES]


def test_without_a_checkout_the_command_says_where_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        published_cases.main([])
    assert caught.value.code == 2
    assert "git clone" in capsys.readouterr().err
