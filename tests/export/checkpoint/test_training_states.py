"""The states of `export.pocket.train`, read as weights of networks."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.checkpoint.trained_files import TrainingChoice, find_trained_files
from export.checkpoint.training_states import latent_scale, read_component, read_contents
from export.errors import CheckpointError
from tests.support.trained import names

MEAN = {
    "n_averaged": torch.tensor(7),
    "module.denoising_unet.conv_in.bias": torch.ones(2),
    "module.denoising_unet.up_blocks.0.motion_modules.0.x": torch.ones(3),
    "module.depth_guider.conv_in.bias": torch.ones(4),
    "module.vae_encoder.quant_conv.bias": torch.ones(5),
    "module.vae_decoder.decoder.conv_in.bias": torch.ones(6),
}


def write_state(path: Path, **other: Any) -> Path:
    """Write a state with `MEAN`, and last weights of zero."""
    path.parent.mkdir(parents=True, exist_ok=True)
    last = {name.removeprefix("module."): torch.zeros_like(value) for name, value in MEAN.items()}
    torch.save({"step": 40, "module": last, "mean": MEAN, "optimizer": {"state": {0: 1.5}}} | other, path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Stages 1 and 3, both autoencoders, and encoded data."""
    for name in ("single", "all", "autoencoder", "decoder", "hearing"):
        write_state(tmp_path / "run" / f"{name}.pt")
    for number, spread in (("00000", 2.0), ("00001", 1.0)):
        np.savez(tmp_path / "run" / f"latents-{number}.npz", latents=np.float16([-spread, spread]))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("component", "expected"),
    [
        ("denoising_unet", {"conv_in.bias": 2, "up_blocks.0.motion_modules.0.x": 3}),
        ("motion_module", {"up_blocks.0.motion_modules.0.x": 3}),
        ("depth_guider", {"conv_in.bias": 4}),
        ("vae", {"quant_conv.bias": 5, "decoder.conv_in.bias": 6}),
    ],
)
def test_the_running_mean_of_a_network_is_read(component: str, expected: dict[str, int], tmp_path: Path) -> None:
    found = read_component(write_state(tmp_path / "all.pt"), component)
    assert {name: int(value.sum()) for name, value in found.items()} == expected


def test_a_recovered_state_has_no_step(tmp_path: Path) -> None:
    torch.save({"mean": MEAN}, tmp_path / "voice.pt")
    step, networks = read_contents(tmp_path / "voice.pt")
    assert (step, networks) == (None, {"denoising_unet", "depth_guider", "vae_encoder", "vae_decoder"})
    with pytest.raises(CheckpointError, match=r"voice\.pt holds no step, as recovered states do, and --step is 3"):
        find_trained_files(TrainingChoice(tmp_path, step=3))


def test_a_network_that_a_state_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    path = write_state(tmp_path / "all.pt")
    with pytest.raises(CheckpointError, match="has no audio_projection; it has denoising_unet, depth_guider, vae_dec"):
        read_component(path, "audio_projection")


class Code:
    """Runs a function when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def test_a_file_with_code_is_refused_by_the_name_of_the_code_which_is_not_run(tmp_path: Path) -> None:
    path, folder = tmp_path / "all.pt", tmp_path / "made"
    torch.save({"mean": MEAN, "step": Code(folder)}, path)
    with pytest.raises(
        CheckpointError, match=r"all\.pt .*\(it refers to (posix|nt)\.mkdir, and nothing of it was run\)"
    ):
        read_contents(path)
    assert not folder.exists()


@pytest.mark.parametrize("prefix", ["module.", "module.module."])
def test_the_prefix_of_a_distributed_run_is_dropped(prefix: str, tmp_path: Path) -> None:
    torch.save({f"{prefix}conv_in.bias": torch.ones(2)}, tmp_path / "x.pth")
    assert set(read_component(tmp_path / "x.pth", "v_kps_guider")) == {"conv_in.bias"}


def test_the_latest_stage_is_taken_with_the_last_autoencoder(run: Path) -> None:
    found = find_trained_files(TrainingChoice(run))
    assert (found.run, found.stage, found.step) == ("run", 3, 40)
    assert found.latents == run / "latents-00000.npz"
    assert names(TrainingChoice(run)) == {
        "denoising_unet": "all.pt", "depth_guider": "all.pt", "vae": "decoder.pt", "audio_encoder": "hearing.pt"
    }  # fmt: skip


def test_stages_have_the_names_of_the_training(run: Path) -> None:
    found = find_trained_files(TrainingChoice(run, stage=1, step=40))
    assert found.files["denoising_unet"].path == run / "single.pt"
    assert found.voice_and_motion_off
    with pytest.raises(
        CheckpointError, match=r"no voice\.pt, the state of stage 2; it has single\.pt \(stage 1\), all"
    ):
        find_trained_files(TrainingChoice(run, stage=2))
    with pytest.raises(CheckpointError, match=r"all\.pt holds step 40 alone, and --step is 39: leave --step out"):
        find_trained_files(TrainingChoice(run, step=39))


def test_an_autoencoder_without_latents_is_refused(run: Path, tmp_path: Path) -> None:
    for path in run.glob("latents-*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"has decoder\.pt, but no latents-.* --stages encode"):
        find_trained_files(TrainingChoice(run))


@pytest.mark.parametrize("step", [-1, 1.5, "40", [40], torch.tensor(40)])
def test_a_step_that_is_no_number_of_steps_is_refused(step: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a state of export\.pocket\.train"):
        read_contents(write_state(tmp_path / "all.pt", step=step))


def test_latents_are_scaled_to_unit_variance(run: Path) -> None:
    assert latent_scale(run / "latents-00000.npz") == 0.5


@pytest.mark.parametrize("case", ["text", "no latents", "constant", "an object", "lzma"])
def test_latents_that_are_none_are_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "latents-0.npz"
    if case == "text":
        path.write_text("latents")
    elif case == "lzma":  # unpacks without a bound
        content = io.BytesIO()
        np.save(content, np.arange(3.0))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("latents.npy", content.getvalue())
    else:
        arrays: dict[str, Any] = {
            "no latents": {"other": np.ones(3)},
            "constant": {"latents": np.ones(3)},
            "an object": {"latents": np.array([{}], object)},
        }
        np.savez(path, **arrays[case])
    with pytest.raises(CheckpointError, match=r"latents-0\.npz cannot be read as latents \(.+\): delete it"):
        latent_scale(path)
