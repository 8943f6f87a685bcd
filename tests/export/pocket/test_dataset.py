"""What the small model is trained on and how its first parts are: acting, pictures made once, crops, and losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export.pocket import dataset
from export.pocket.acting import REACH, random_motion, random_pose
from export.pocket.architecture import FPS, POCKET, SIZE, WINDOW
from export.pocket.audio_pretraining import MouthFromSamples, normalized_recordings
from export.pocket.autoencoder import CROP, Autoencoder, crops, to_model_range, to_uint8
from export.pocket.dataset import STILLS, load_shard, make_shard

MOUTHS = np.stack([np.linspace(0, 1, 40), np.linspace(-1, 1, 40), np.linspace(1, 0, 40)], axis=1).astype(np.float32)


def test_an_act_shows_its_mouths_and_moves_smoothly() -> None:
    poses = random_motion(np.random.default_rng(3), MOUTHS, FPS)
    np.testing.assert_allclose([(p.mouth, p.width, p.rounding) for p in poses], MOUTHS, atol=1e-6)
    for name, reach in REACH.items():
        track = np.array([getattr(pose, name) for pose in poses])
        assert np.abs(track).max() <= reach
        assert np.abs(np.diff(track)).max() < 0.15 * reach


def test_stills_are_of_all_kinds() -> None:
    rng = np.random.default_rng(0)
    poses = [random_pose(rng) for _ in range(200)]
    assert {pose.mouth == 0 for pose in poses} == {True, False}
    assert np.ptp([pose.yaw for pose in poses]) > REACH["yaw"]
    assert all(abs(pose.width) <= pose.mouth for pose in poses)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of data, with recordings, and few people a shard."""
    monkeypatch.setattr(dataset, "PER_SHARD", 2)
    np.savez(tmp_path / "speech.npz", mouths=np.stack([MOUTHS, MOUTHS[::-1]]))
    return tmp_path


def test_a_shard_holds_clips_that_follow_their_recordings_and_stills(folder: Path) -> None:
    make_shard(folder, 0)
    shard = load_shard(folder / "people-00000.npz")
    assert shard.images.shape == (2, WINDOW + STILLS, SIZE, SIZE, 3)
    assert shard.keypoints.shape == (2, WINDOW + STILLS, 3, 2)
    recordings = np.stack([MOUTHS, MOUTHS[::-1]])
    for shown, (recording, first) in zip(shard.mouths, shard.speech, strict=True):
        np.testing.assert_allclose(shown[:WINDOW], recordings[recording, first : first + WINDOW], atol=1e-6)


def test_a_shard_that_is_there_is_not_drawn_again(folder: Path) -> None:
    make_shard(folder, 1)
    (path,) = folder.glob("people-*.npz")
    before = path.stat().st_mtime_ns
    make_shard(folder, 1)
    assert path.stat().st_mtime_ns == before
    assert sorted(p.name for p in folder.iterdir()) == ["people-00001.npz", "speech.npz"]


def test_crops_lie_inside_the_picture_and_often_on_the_mouth() -> None:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[80:96, 56:72] = 255
    points = np.array([[44, 50], [84, 50], [64, 70]], np.float32)
    pieces = crops(np.stack([image] * 100), np.stack([points] * 100), np.random.default_rng(0))
    assert pieces.shape == (100, 3, CROP, CROP)
    assert -1 <= pieces.min() < pieces.max() <= 1
    whole = (pieces == 1).sum(dim=(1, 2, 3)) == 3 * 16 * 16
    assert whole.float().mean() > 0.35


def test_pictures_and_images_are_inverse() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert np.abs(to_uint8(to_model_range(images)).astype(int) - images).max() <= 1


def test_an_autoencoder_learns_in_a_few_steps() -> None:
    torch.manual_seed(0)
    model, pictures = Autoencoder(), torch.rand(4, 3, CROP, CROP) * 0.2 + 0.3
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for step in range(12):
        loss = model.loss(pictures, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert model.latent(pictures).shape == (4, POCKET.vae.latent_channels, CROP // 8, CROP // 8)


def test_a_listener_learns_from_normalised_clips() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    clips = normalized_recordings((rng.standard_normal((2, 8000)) * 0.01 + 0.2).astype(np.float16))
    assert clips.mean(dim=1).abs().max() < 1e-3
    assert clips.std(dim=1) == pytest.approx([1, 1], abs=0.01)
    model, mouths = MouthFromSamples(), torch.full((2, 12, 3), 0.5)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss = model.loss(clips, mouths)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert model.features(clips).shape[2] == POCKET.audio_projection.embedding_dim
