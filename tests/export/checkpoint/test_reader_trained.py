"""A checkpoint directory whose networks are replaced by those of a training run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.checkpoint.presets import TINY
from export.checkpoint.reader import Checkpoint
from export.checkpoint.trained_files import TrainedFiles, TrainingChoice, find_trained_files
from export.errors import CheckpointError
from export.networks.denoising_unet import Conditions, DenoisingUNet, MotionModule, reference_keys_values
from tests.support.micro import MICRO
from tests.support.trained import ALL, weights, write_run

UNET = "denoising_unet"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages 1 and 3 of a distributed run, seeds 1 and 3. Read-only."""
    folder = tmp_path_factory.mktemp("runs") / "exp_output"
    write_run(folder, {"stage_1": [1]}, prefix="module.")
    return write_run(folder, {"stage_3": [3]})


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run to be changed at will."""
    return Path(shutil.copytree(run, tmp_path / "exp_output"))


def opened(folder: Path, run: Path | None = None, **choice: object) -> Checkpoint:
    return Checkpoint(folder, find_trained_files(TrainingChoice(run, **choice)))  # type: ignore[arg-type]


def change(path: Path, *drop: str, **put: Tensor) -> str:
    """Change tensors of a file."""
    tensors = torch.load(path, weights_only=True) | put
    path.unlink()  # tensors may still be mapped from it
    torch.save({name: value for name, value in tensors.items() if name not in drop}, path)
    return path.name


def assert_seed(network: str, seed: int, found: Checkpoint, part: str = "") -> None:
    """Check that the tensors of a network whose names contain `part` are those of a seed."""
    expected, state = weights(network, seed), found.network(network).state_dict()
    assert {name for name, value in state.items() if part in name and not torch.equal(value, expected[name])} == set()


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("network", [name for name in ALL if name not in (UNET, "motion_module")])
def test_networks_are_those_of_the_run(network: str, stage: int, micro_checkpoint: Path, run: Path) -> None:
    assert_seed(network, stage, opened(micro_checkpoint, run, stage=stage))


def test_the_denoiser_is_that_of_the_run_with_its_motion_modules(micro_checkpoint: Path, run: Path) -> None:
    assert_seed(UNET, 3, opened(micro_checkpoint, run))


def test_other_networks_are_those_of_the_directory(micro_checkpoint: Path, run: Path) -> None:
    assert opened(micro_checkpoint, run).digest("vae_decoder") == Checkpoint(micro_checkpoint).digest("vae_decoder")
    origins = opened(micro_checkpoint, run).origins()
    assert origins["vae"].is_relative_to(micro_checkpoint)
    assert {name for name, path in origins.items() if path.is_relative_to(run)} == set(ALL)


def test_a_file_of_motion_modules_takes_precedence_over_those_of_the_denoiser(
    micro_checkpoint: Path, own: Path
) -> None:
    torch.save(weights("motion_module", 8), own / "stage_3" / "motion_module-3.pth")
    found = opened(micro_checkpoint, own)
    assert_seed(UNET, 8, found, "motion_modules")
    assert_seed(UNET, 3, found, "resnets")


@pytest.mark.parametrize("parts", [[UNET], ["motion_module"]])
def test_a_single_file_takes_precedence_with_all_that_it_holds(
    parts: list[str], micro_checkpoint: Path, run: Path, tmp_path: Path
) -> None:
    files = {network: tmp_path / f"{network}.pth" for network in parts}
    for network, path in files.items():
        torch.save(weights(network, 6), path)
    found = opened(micro_checkpoint, run, parts=files)
    assert_seed(UNET, 6, found, "motion_modules")
    assert_seed(UNET, 6 if UNET in parts else 3, found, "resnets")
    record = found.training_record()
    assert record is not None
    assert record.files[parts[0]].file == f"{parts[0]}.pth"
    assert ("motion_module" in record.files) == ("motion_module" in parts)


def test_a_denoiser_without_motion_modules_takes_the_directorys(micro_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "unet.pth"
    torch.save({name: value for name, value in weights(UNET, 6).items() if "motion_modules" not in name}, path)
    found, expected = (
        checkpoint.network(UNET).state_dict()
        for checkpoint in (opened(micro_checkpoint, parts={UNET: path}), Checkpoint(micro_checkpoint))
    )
    same = {name for name in found if torch.equal(found[name], expected[name])}
    assert same == {name for name in found if "motion_modules" in name}


def test_faults_of_trained_weights_are_named_with_the_remedy(micro_checkpoint: Path, own: Path) -> None:
    change(own / "stage_3" / "v_kps_guider-3.pth", "conv_in.bias", surplus=torch.zeros(1))
    change(own / "stage_3" / "reference_net-3.pth", **{"conv_in.bias": torch.zeros(9)})
    change(own / "stage_3" / "audio_projection-3.pth", **{"norm_out.bias": torch.zeros(24, dtype=torch.int64)})
    checkpoint = opened(micro_checkpoint, own)
    remedy = ".*: give the checkpoint directory of the model that was trained with --weights"
    for network, fault in {
        "v_kps_guider": r"v_kps_guider-3\.pth .*: 1 missing: conv_in\.bias; 1 unexpected: surplus",
        "reference_net": r"reference_net-3\.pth .*: 1 misshapen: conv_in\.bias is \(9,\), expected \(8,\)",
        "audio_projection": r"audio_projection-3\.pth .*: 1 of another kind: norm_out\.bias is torch\.int64",
    }.items():
        with pytest.raises(CheckpointError, match=fault + remedy):
            checkpoint.network(network)


def test_weights_of_a_training_that_diverged_are_refused_by_name(micro_checkpoint: Path, own: Path) -> None:
    for network, value in (("v_kps_guider", np.nan), ("reference_net", -np.inf)):
        changed = weights(network, 3)["conv_in.bias"].clone()
        changed[-1] = value
        change(own / "stage_3" / f"{network}-3.pth", **{"conv_in.bias": changed})
        with pytest.raises(
            CheckpointError, match=rf"{network}-3\.pth has NaN or infinity in 1 of \d+ tensors: conv_in\.bias"
        ):
            opened(micro_checkpoint, own).network(network)


def test_a_small_file_that_declares_a_huge_tensor_is_refused(micro_checkpoint: Path, own: Path) -> None:
    path = own / "stage_3" / "v_kps_guider-3.pth"
    bias = weights("v_kps_guider", 3)["conv_in.bias"]
    change(path, **{"conv_in.bias": torch.zeros(1).expand(bias.shape), f"blocks.{'9' * 5000}.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"1 unexpected: blocks\.9{193}; 1 of another kind: conv_in\.bias is"):
        opened(micro_checkpoint, own).network("v_kps_guider")


def test_a_file_of_motion_modules_with_other_tensors_is_refused(micro_checkpoint: Path, run: Path) -> None:
    parts = {"motion_module": run / "stage_3" / "denoising_unet-3.pth"}
    with pytest.raises(CheckpointError, match=r"unet-3\.pth has \d+ unexpected: conv_in\.weight.*motion modules alone"):
        opened(micro_checkpoint, parts=parts).network(UNET)


def test_a_damaged_file_of_a_run_is_refused(micro_checkpoint: Path, own: Path) -> None:
    (own / "stage_3" / "reference_net-3.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"reference_net-3\.pth cannot be read as tensors"):
        opened(micro_checkpoint, own).network("reference_net")


def test_a_guider_that_the_directory_does_not_declare_is_refused(micro_checkpoint: Path, run: Path) -> None:
    parts = {"depth_guider": run / "stage_3" / "v_kps_guider-3.pth"}
    with pytest.raises(
        CheckpointError, match=r'does not declare: add "guiders": \["keypoints", "depth"\] to that file'
    ):
        _ = opened(micro_checkpoint, parts=parts).architecture


def test_a_file_that_a_training_replaces_during_the_build_is_refused(micro_checkpoint: Path, own: Path) -> None:
    checkpoint = opened(micro_checkpoint, own)
    checkpoint.digest("reference_net")
    change(own / "stage_3" / "reference_net-3.pth")
    with pytest.raises(
        CheckpointError, match=r"reference_net-3\.pth changed during the build.*: copy the run's folder"
    ):
        checkpoint.network("reference_net")


def test_the_stage_changes_the_identity_of_the_denoiser_alone(micro_checkpoint: Path, run: Path) -> None:
    parts = {UNET: run / "stage_3" / "denoising_unet-3.pth"}
    first, third = (opened(micro_checkpoint, stage=stage, parts=parts) for stage in (1, 3))
    assert first.digest(UNET) != third.digest(UNET)
    assert first.digest("reference_net") == third.digest("reference_net")
    assert third.digest(UNET) == opened(micro_checkpoint, parts=parts).digest(UNET)


def test_a_directory_alone_has_no_record(micro_checkpoint: Path) -> None:
    assert Checkpoint(micro_checkpoint).training_record() is None
    assert Checkpoint(micro_checkpoint, TrainedFiles()).training_record() is None


def denoise(unet: nn.Module, features: dict[str, Tensor], tokens: Tensor, *, voice: bool, motion: bool) -> Tensor:
    assert isinstance(unet, DenoisingUNet)
    generator = torch.Generator().manual_seed(0)
    conditions = Conditions(
        frames=3,
        halves=2,
        reference=reference_keys_values(unet, features),
        tokens=tokens,
        reference_weight=torch.ones(1),
        audio_weight=torch.full((1,), 3.0 if voice else 0.0),
        windows=1 if motion else 0,
    )
    latents = torch.randn(3, MICRO.unet.in_channels, 4, 6, generator=generator)
    pose = torch.randn(3, MICRO.unet.block_out_channels[0], 4, 6, generator=generator)
    return unet(latents, torch.tensor([481.0]), pose, conditions)


@torch.no_grad()
def test_stage_1_computes_what_the_modules_do_without_voice_and_motion(micro_checkpoint: Path, run: Path) -> None:
    parts = {UNET: run / "stage_1" / "denoising_unet-1.pth"}
    first, second = (opened(micro_checkpoint, stage=stage, parts=parts).network(UNET) for stage in (1, 2))
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(1, MICRO.unet.in_channels, 4, 6, generator=generator)
    features = Checkpoint(micro_checkpoint).network("reference_net")(latent, torch.zeros(1))
    tokens = torch.randn(2, 3, MICRO.audio_projection.num_queries, MICRO.unet.cross_attention_dim, generator=generator)
    without = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        expected = inputs[0] if isinstance(module, MotionModule) else torch.zeros_like(output)
        without.append(torch.equal(output, expected))

    kinds = {name: isinstance(module, MotionModule) for name, module in first.named_modules()}
    switched = [first.get_submodule(name) for name, motion in kinds.items() if motion or name.endswith(".attn2")]
    for module in switched:
        module.register_forward_hook(record)
    found = denoise(first, features, tokens[0], voice=True, motion=True)
    assert without == [True] * len(switched)
    assert len(switched) > 2
    assert torch.equal(found, denoise(first, features, tokens[1], voice=True, motion=True))
    # Motion modules that are not computed leave another memory layout, for which sums are rounded in another order.
    off = denoise(second, features, tokens[0], voice=False, motion=False)
    torch.testing.assert_close(found, off, rtol=0, atol=1e-5)
    for voice, motion in ((True, False), (False, True)):
        assert (denoise(second, features, tokens[0], voice=voice, motion=motion) - off).abs().max() > 1e-2


def test_a_run_of_another_model_is_refused(micro_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "reference.pth"
    torch.save({"conv_in.weight": torch.zeros(TINY.unet.block_out_channels[0], 4, 3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"conv_in\.weight is \(32, 4, 3, 3\), expected \(8, 3, 3, 3\)"):
        opened(micro_checkpoint, parts={"reference_net": path}).network("reference_net")
