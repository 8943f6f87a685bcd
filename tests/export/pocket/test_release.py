"""From a few drawings to a checkpoint directory: every stage of training follows from the one before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoint.reader import Checkpoint
from export.checkpoint.trained_files import TrainingChoice, find_trained_files
from export.errors import CheckpointError
from export.pocket import denoising
from export.pocket.acting import random_pose
from export.pocket.architecture import FPS, POCKET, SIZE, WINDOW
from export.pocket.dataset import STILLS, save
from export.pocket.denoising import train_projection, train_stage
from export.pocket.detector import FaceDetector
from export.pocket.encoded_data import encode, latent_std, load_encoded
from export.pocket.faces import draw_face
from export.pocket.pretraining import RunContext, mean_weights, train_audio_encoder, train_autoencoder, train_decoder
from export.pocket.release import RECOMMENDED, RECOMMENDED_LIVE, release
from export.pocket.stages import STAGES
from export.pocket.training_loop import TrainingSchedule, train

ONE = TrainingSchedule(steps=1, parts=1)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    """Every stage, one step each, on a few pictures of two people."""
    folder = tmp_path_factory.mktemp("pocket")
    rng = np.random.default_rng(0)
    drawings = [draw_face(seed, random_pose(rng), height=SIZE, width=SIZE, oversampling=1) for seed in range(2)]
    count = WINDOW + STILLS
    for number in range(3):
        save(
            folder / f"people-{number:05}.npz",
            images=np.stack([np.stack([d.image] * count) for d in drawings]),
            keypoints=np.stack([np.stack([d.keypoints] * count) for d in drawings]).astype(np.float32),
            mouths=rng.random((2, count, 3)).astype(np.float32),
            speech=np.array([[0, 0], [1, 3]]),
        )
    clips, frames = rng.standard_normal((62, 16000)).astype(np.float16), FPS
    save(folder / "speech.npz", clips=clips, mouths=rng.random((62, frames, 3)).astype(np.float32))
    made = RunContext(folder, folder, report=lambda line: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoising, "PEOPLE", 2)
        patch.setattr(denoising, "STEPS", 1)
        train_autoencoder(made, ONE)
        train_audio_encoder(made, ONE)
        encode(made)
        train_projection(made, ONE)
        for name in STAGES:
            train_stage(made, ONE, name)
        train_decoder(made, ONE)
    train(FaceDetector(), lambda module, part: next(module.parameters()).sum(), ONE, folder / "detector.pt", print)
    return made


def test_material_is_of_unit_variance_and_hears_every_frame(context: RunContext) -> None:
    data = load_encoded(context, context.shards())
    assert data.latents.shape == (6, WINDOW + STILLS, POCKET.vae.latent_channels, SIZE // 8, SIZE // 8)
    assert data.latents[:2].astype(np.float64).std() == pytest.approx(1, abs=0.01)
    assert data.features.shape == (62, FPS, POCKET.audio_projection.max_seq_len, 64)


def test_a_stage_begins_where_the_one_before_it_ended(context: RunContext) -> None:
    single, voice = (mean_weights(context.run / f"{name}.pt") for name in ("single", "voice"))
    assert torch.equal(single["reference_net.conv_in.weight"], voice["reference_net.conv_in.weight"])
    assert not torch.equal(single["audio_projection.latents"], voice["audio_projection.latents"])


def test_another_seed_changes_every_random_number(context: RunContext, tmp_path: Path) -> None:
    (tmp_path / "rows.npy").symlink_to(context.run / "rows.npy")
    for seed, same in ((0, True), (1, False)):
        train_projection(replace(context, run=tmp_path, seed=seed), ONE)
        repeated, first = (mean_weights(folder / "projection.pt") for folder in (tmp_path, context.run))
        (tmp_path / "projection.pt").unlink()
        name = "audio_projection.latents"
        assert torch.equal(repeated[name], first[name]) == same
    parts = {replace(context, seed=seed).part_seed(part) for seed in range(3) for part in range(4)}
    assert len(parts) == 12


def test_the_decoder_goes_on_alone(context: RunContext) -> None:
    before, after = (mean_weights(context.run / f"{name}.pt") for name in ("autoencoder", "decoder"))
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vae_decoder"}


def test_every_stage_leaves_a_sheet_to_look_at(context: RunContext) -> None:
    sheets = {path.stem.partition("-")[0] for path in context.run.glob("*.png")}
    assert sheets == {"autoencoder", "decoder", *STAGES}


@pytest.fixture(scope="module")
def released(context: RunContext) -> Path:
    release(context, context.run / "checkpoint")
    return context.run / "checkpoint"


def test_a_release_is_a_checkpoint_like_any_other(context: RunContext, released: Path) -> None:
    checkpoint = Checkpoint(released)
    assert checkpoint.architecture.unet == POCKET.unet
    assert checkpoint.architecture.vae.scaling_factor == pytest.approx(1 / latent_std(context))
    assert checkpoint.architecture.recommended == RECOMMENDED
    assert checkpoint.architecture.recommended_live == RECOMMENDED_LIVE
    assert checkpoint.detector() is not None
    trained = mean_weights(context.run / "all.pt")["denoising_unet.conv_in.weight"]
    assert torch.equal(checkpoint.network("denoising_unet").conv_in.weight, trained.half().float())
    assert torch.equal(
        checkpoint.network("vae_decoder").decoder.conv_in.weight,
        mean_weights(context.run / "decoder.pt")["vae_decoder.decoder.conv_in.weight"].half().float(),
    )


def test_a_run_over_its_release_gives_the_weights_before_they_were_rounded(context: RunContext, released: Path) -> None:
    trained = Checkpoint(released, find_trained_files(TrainingChoice(context.run)))
    rounded = Checkpoint(released)
    scales = (checkpoint.architecture.vae.scaling_factor for checkpoint in (trained, rounded))
    assert len(set(scales)) == 1
    for network in ("denoising_unet", "audio_projection", "vae_decoder"):
        expected = rounded.network(network).state_dict()
        for name, value in trained.network(network).state_dict().items():
            assert torch.equal(value if name.endswith(".pe") else value.half().float(), expected[name]), name


def test_a_stage_that_was_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"voice\.pt is missing: run that stage first: .* --stages voice"):
        mean_weights(tmp_path / "voice.pt")
