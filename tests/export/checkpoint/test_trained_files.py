"""Which files of a training run a build takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from export.checkpoint.trained_files import COMPONENTS, TrainingChoice, find_trained_files
from export.errors import CheckpointError
from tests.support.trained import ALL, names, touch_run
from vexpress_rt.errors import ConfigError


def stage(name: str, *steps: int, networks: tuple[str, ...] = ALL) -> list[str]:
    return [f"{name}/{network}-{step}.pth" for step in steps for network in networks]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Stage 2 saved what it trains; stages 1 and 3 were interrupted while they saved steps 50001 and 9001."""
    trained = ("denoising_unet", "motion_module", "audio_projection")
    files = [*stage("stage_1", 1, 40001), *stage("stage_2", 1, 5001, networks=trained), *stage("stage_3", 1, 1001)]
    files += ["stage_1/reference_net-50001.pth", "stage_3/reference_net-9001.pth"]
    files += ["stage_3/log/config.yaml", "stage_3/optimizer-2.pth", "stage_4/x"]
    return touch_run(tmp_path / "exp_output", *files)


def test_the_latest_stage_and_its_newest_complete_step_are_taken(run: Path) -> None:
    found = find_trained_files(TrainingChoice(run))
    assert (found.run, found.stage, found.step, found.voice_and_motion_off) == ("exp_output", 3, 1001, False)
    assert {network: file.name for network, file in found.files.items()} == {
        network: f"stage_3/{network}-1001.pth" for network in ALL
    }


def test_networks_that_a_stage_did_not_save_come_from_the_stage_before(run: Path) -> None:
    assert names(TrainingChoice(run, stage=2)) == {
        "denoising_unet": "stage_2/denoising_unet-5001.pth",
        "motion_module": "stage_2/motion_module-5001.pth",
        "audio_projection": "stage_2/audio_projection-5001.pth",
        "reference_net": "stage_1/reference_net-40001.pth",
        "v_kps_guider": "stage_1/v_kps_guider-40001.pth",
    }


def test_a_stage_and_a_step_are_chosen(run: Path) -> None:
    found = find_trained_files(TrainingChoice(run, stage=1, step=1))
    assert found.voice_and_motion_off
    assert found.files["reference_net"].path == run / "stage_1" / "reference_net-1.pth"


def test_the_folder_of_a_stage_stands_for_that_stage_of_the_run(run: Path) -> None:
    assert find_trained_files(TrainingChoice(run / "stage_2")) == find_trained_files(TrainingChoice(run, stage=2))


def test_a_folder_whose_name_does_not_begin_with_a_stage_needs_one(tmp_path: Path) -> None:
    run = touch_run(tmp_path / "mine", *(name.partition("/")[2] for name in stage("", 7)))
    with pytest.raises(
        CheckpointError, match=r"mine does not begin with a stage; expected stage_1 to stage_3: add --stage"
    ):
        find_trained_files(TrainingChoice(run))
    found = find_trained_files(TrainingChoice(run, stage=2))
    assert (found.run, found.stage, found.step, found.files["reference_net"].name) == (
        "mine",
        2,
        7,
        "reference_net-7.pth",
    )


def test_single_files_take_precedence(run: Path) -> None:
    file = touch_run(run, "../other.pth") / "../other.pth"
    assert names(TrainingChoice(run, parts={"v_kps_guider": file}))["v_kps_guider"] == "other.pth"
    alone = find_trained_files(TrainingChoice(stage=1, parts={"vae": file}))
    assert (alone.run, alone.step, alone.voice_and_motion_off, set(alone.files)) == (None, None, True, {"vae"})


@pytest.mark.parametrize(
    ("folder", "choice", "message"),
    [
        ("", {"step": 9001}, "no step 9001 of audio_projection, den.*; complete steps: 1, 1001: choose one"),
        ("", {"stage": 2, "step": 3}, "no step 3 of audio_projection, denoising_unet, motion_module; complete steps:"),
        ("stage_2", {"stage": 3}, "stage_2 is of stage 2, and --stage is 3"),
        ("stage_4", {}, "stage_4 holds no weights of a training; expected folders stage_1 to stage_3"),
        ("nowhere", {}, "nowhere is not a folder; expected folders stage_1 to stage_3"),
        ("", {"parts": {"vae": Path("nowhere.bin")}}, "nowhere.bin is not a file; expected weights"),
    ],
)
def test_what_is_not_there_is_named(folder: str, choice: dict[str, Any], message: str, run: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_trained_files(TrainingChoice(run / folder, **choice))


def test_a_stage_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    run = touch_run(tmp_path / "run", *stage("stage_1", 1), *stage("stage_3_small", 1))
    with pytest.raises(CheckpointError, match="no weights of stage 2; it has stage_1, stage_3_small: choose"):
        find_trained_files(TrainingChoice(run, stage=2))


def test_two_folders_of_a_stage_are_not_guessed_between(tmp_path: Path) -> None:
    run = touch_run(tmp_path / "run", *stage("stage_2", 1), *stage("stage_2_1", 1))
    with pytest.raises(CheckpointError, match="several folders of stage 2, stage_2, stage_2_1: name one of them"):
        find_trained_files(TrainingChoice(run))
    assert names(TrainingChoice(run / "stage_2_1"))["reference_net"] == "stage_2_1/reference_net-1.pth"
    touch_run(run, "stage_3/denoising_unet-1.pth")
    with pytest.raises(CheckpointError, match=r"no reference_net, and both stage_2 and stage_2_1 hold it: .* --part"):
        find_trained_files(TrainingChoice(run))


def test_a_stage_without_a_complete_step_is_refused_with_its_steps(tmp_path: Path) -> None:
    run = touch_run(tmp_path / "stage_1", "reference_net-1.pth", *(f"v_kps_guider-{n}.pth" for n in range(2, 12)))
    steps = r"reference_net: 1; v_kps_guider: ..., 4, 5, 6, 7, 8, 9, 10, 11"
    with pytest.raises(CheckpointError, match=re.escape(steps)):
        find_trained_files(TrainingChoice(run))


def test_two_files_of_a_network_and_step_are_refused(tmp_path: Path) -> None:
    run = touch_run(tmp_path / "stage_1", "reference_net-1.pth", "reference_net-1.safetensors")
    with pytest.raises(CheckpointError, match=r"reference_net-1\.pth and reference_net-1\.safetensors; .* remove one"):
        find_trained_files(TrainingChoice(run))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"parts": {"unet": Path("x")}}, f"no network is named unet; expected some of {', '.join(COMPONENTS)}"),
        ({"run": Path("x"), "stage": 4}, "stage is 4; expected 1, 2 or 3"),
        ({"step": 3}, "step 3 is given without a run"),
        ({"stage": 3}, "stage 3 is given without weights of it"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingChoice(**choice)
