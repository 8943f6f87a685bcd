"""Bundles of weights of one's own training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.build.__main__ import main
from export.build.builder import build
from export.build.parity import run_onnx
from export.checkpoint.trained_files import TrainingChoice
from tests.support.builds import Log, options
from tests.support.trained import ALL, weights, write_run
from vexpress_rt.__main__ import main as run_command
from vexpress_rt.bundle.bundle import Bundle, sha256_file
from vexpress_rt.pipeline.generator import Generator

SIZES = ("--height", "16", "--width", "24", "--frames", "3", "--target", "onnxruntime", "--engine", "pose_guider")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages 1 and 3 of a run, seeds 1 and 3. Read-only."""
    return write_run(tmp_path_factory.mktemp("runs") / "exp_output", {"stage_1": [1], "stage_3": [3]})


@pytest.fixture(scope="module")
def first_stage(
    run: Path, micro_checkpoint: Path, micro_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """A bundle whose denoisers are of stage 1; the other engines are the directory's."""
    folder = Path(shutil.copytree(micro_bundle, tmp_path_factory.mktemp("first") / "bundle"))
    parts = {network: run / "stage_1" / f"{network}-1.pth" for network in ("denoising_unet", "motion_module")}
    log = Log()
    build(micro_checkpoint, folder, replace(options(), training=TrainingChoice(stage=1, parts=parts)), log)
    assert log.made == ["reference_net", "denoiser", "denoiser_cond"]
    return Bundle.open(folder)


def test_an_engine_of_stage_1_depends_neither_on_the_voice_nor_on_other_frames(first_stage: Bundle) -> None:
    spec, rng = first_stage.specs["denoiser"], np.random.default_rng(0)
    inputs = {t.name: rng.standard_normal(t.shape).astype(t.dtype) for t in spec.inputs}

    def predict(**changes: np.ndarray) -> list[np.ndarray]:
        return run_onnx(first_stage.engine_path("denoiser"), spec, [*(inputs | changes).values()])

    before = predict()
    for found, expected in zip(predict(audio_tokens=-2 * inputs["audio_tokens"]), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    latents = inputs["latents"].copy()
    latents[1] = 0
    for found, expected in zip(predict(latents=latents), before, strict=True):
        np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])
        assert np.abs(found[1] - expected[1]).max() > 1e-3


def test_a_generator_says_what_is_off(first_stage: Bundle) -> None:
    with Generator(first_stage.folder, provider="cpu") as generator:
        assert "weights:   single files, stage 1; voice and motion are off" in generator.describe().splitlines()


def test_the_command_builds_a_run_and_inspect_names_it(
    run: Path, micro_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae = next((micro_checkpoint / "sd-vae-ft-mse").glob("*.safetensors"))
    output = tmp_path / "bundle"
    arguments = ["--weights", str(micro_checkpoint), "--output", str(output), *SIZES, "--part", f"vae={vae}"]
    assert main([*arguments, "--run", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "weights: run exp_output, stage 3, step 3"
    assert f"  v_kps_guider     {run / 'stage_3' / 'v_kps_guider-3.pth'}" in lines
    assert any(line.startswith("  audio_encoder ") and str(micro_checkpoint) in line for line in lines)
    record = Bundle.open(output).manifest.training
    assert record is not None
    assert (record.run, record.stage, record.step, set(record.files)) == ("exp_output", 3, 3, {*ALL, "vae"})
    assert record.files["v_kps_guider"].file == "stage_3/v_kps_guider-3.pth"
    assert record.files["v_kps_guider"].sha256 == sha256_file(run / "stage_3" / "v_kps_guider-3.pth")
    assert record.files["vae"].file == vae.name
    assert run_command(["inspect", str(output)]) == 0
    text = capsys.readouterr().out
    assert "run exp_output, stage 3, step 3\n" in text
    assert f"v_kps_guider from stage_3/v_kps_guider-3.pth, sha256 {record.files['v_kps_guider'].sha256[:12]}" in text
    assert str(run.parent) not in text


def test_equal_weights_of_another_run_change_the_record_alone(
    run: Path, micro_checkpoint: Path, tmp_path: Path
) -> None:
    output, small = tmp_path / "bundle", options("pose_guider")
    build(micro_checkpoint, output, replace(small, training=TrainingChoice(run)))
    build(micro_checkpoint, output, replace(small, training=TrainingChoice(run)), again := Log())
    assert again[-1] == f"{output} is up to date: all 1 engines are unchanged"
    other = Path(shutil.copytree(run, tmp_path / "second"))
    build(micro_checkpoint, output, replace(small, training=TrainingChoice(other)), log := Log())
    record = Bundle.open(output).manifest.training
    assert (log.made, log.kept, record and record.run) == ([], ["pose_guider"], "second")
    build(micro_checkpoint, output, small, log := Log())
    assert (log.made, Bundle.open(output).manifest.training) == (["pose_guider"], None)


def test_weights_that_do_not_fit_leave_the_bundle_as_it_was(
    run: Path, micro_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = tmp_path / "guider.pth", tmp_path / "bundle"
    torch.save(weights("v_kps_guider", 2) | {"surplus": torch.zeros(1)}, file)
    arguments = ["--weights", str(micro_checkpoint), "--output", str(output), *SIZES]
    assert main([*arguments, "--run", str(run), "--part", f"v_kps_guider={file}"]) == 1
    assert "guider.pth does not fit the configuration: 1 unexpected: surplus: give" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "unet=x"], "no network is named unet; expected some of reference_net, denoising_unet"),
        (["--part", "vae"], "--part is 'vae'; expected NETWORK=FILE with one of reference_net"),
        (["--part", "vae=x", "--part", "vae=y"], "--part names vae twice, x and y: leave one out"),
        (["--step", "3"], "step 3 is given without a run"),
        (["--run", "x"], "--run or --part is given without --output"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--target", "onnxruntime", *arguments]) == 1
    assert message in capsys.readouterr().err
