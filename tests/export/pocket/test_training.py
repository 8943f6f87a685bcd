"""Training of the small model: what is drawn, dropped, frozen and weighted; and that an interrupted run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.errors import CheckpointError
from export.networks.config import GuiderConfig, UNetConfig
from export.pocket.architecture import POCKET, SIZE, WINDOW
from export.pocket.diffusion import ALPHAS, MIN_SNR, MIN_WEIGHT, noised
from export.pocket.model import Batch, TrainingModel
from export.pocket.pretraining import mean_weights
from export.pocket.stages import (
    ALL,
    DROP_ALL,
    SINGLE,
    STAGES,
    VOICE,
    EncodedData,
    keypoint_maps,
    mouth_weights,
    stage_loss,
)
from export.pocket.training_loop import TrainingSchedule, mean_state, train

SMALL = replace(  # of few channels and levels, so that a step takes no time
    POCKET,
    unet=UNetConfig(
        in_channels=8, block_out_channels=(8, 16), layers_per_block=1, down_attention=(True, False),
        up_attention=(False, True), heads=2, cross_attention_dim=64, groups=4, motion_heads=2,
    ),
    guiders={"keypoints": GuiderConfig(channels=(2, 2, 2, 2), output=8)},
)  # fmt: skip
SIDE, CHANNELS = SIZE // POCKET.vae.factor, POCKET.vae.latent_channels
POINTS = np.array([[44, 50], [84, 50], [64, 70]], np.float32)


@pytest.fixture(scope="module")
def trainee() -> TrainingModel:
    torch.manual_seed(0)
    return TrainingModel(SMALL).eval()


@pytest.fixture(scope="module")
def data() -> EncodedData:
    rng = np.random.default_rng(0)
    rows, hidden = POCKET.audio_projection.max_seq_len, POCKET.audio_projection.embedding_dim
    return EncodedData(
        latents=rng.standard_normal((4, WINDOW + 4, CHANNELS, SIDE, SIDE)).astype(np.float16),
        keypoints=np.tile(POINTS, (4, WINDOW + 4, 1, 1)),
        features=rng.standard_normal((2, 20, rows, hidden)).astype(np.float16),
        speech=np.array([[0, 0], [1, 8], [0, 4], [1, 2]]),
    )


def batch(keep: list[list[float]], frames: int = 2, seed: int = 0) -> Batch:
    """Random inputs of as many people as `keep` has rows."""
    people, noise = len(keep), torch.Generator().manual_seed(seed)
    config = POCKET.audio_projection
    return Batch(
        noisy=torch.randn(people, frames, CHANNELS, SIDE, SIDE, generator=noise),
        timesteps=torch.full((people, frames), 500),
        reference=torch.randn(people, CHANNELS, SIDE, SIDE, generator=noise),
        keypoint_maps=torch.rand(people, frames, 3, SIZE, SIZE, generator=noise),
        features=torch.randn(people, frames, config.max_seq_len, config.embedding_dim, generator=noise),
        keep=torch.tensor(keep),
    )


def changed(trainee: TrainingModel, keep: list[float], condition: str) -> bool:
    """Whether another value of a condition gives another prediction."""
    one, other = batch([keep]), batch([keep], seed=1)
    swapped = Batch(**{**vars(one), condition: getattr(other, condition)})
    with torch.no_grad():
        return not torch.equal(trainee(one, motion=True), trainee(swapped, motion=True))


@pytest.mark.parametrize(("place", "condition"), [(0, "reference"), (1, "keypoint_maps"), (2, "features")])
def test_a_condition_counts_unless_it_is_dropped(trainee: TrainingModel, place: int, condition: str) -> None:
    dropped = [float(i != place) for i in range(3)]
    assert changed(trainee, [1.0, 1.0, 1.0], condition)
    assert not changed(trainee, dropped, condition)


def test_people_of_a_batch_do_not_see_each_other(trainee: TrainingModel) -> None:
    both, one = batch([[1.0, 1.0, 1.0]] * 2), batch([[1.0, 1.0, 1.0]])
    alone = Batch(**{name: value[:1] for name, value in vars(both).items()})
    assert one.noisy.shape == alone.noisy.shape
    with torch.no_grad():
        together, single = trainee(both, motion=True)[:1], trainee(alone, motion=True)
    torch.testing.assert_close(together, single, atol=1e-5, rtol=0)


def test_motion_modules_start_as_if_they_were_not_there(trainee: TrainingModel) -> None:
    inputs = batch([[1.0, 1.0, 1.0]])
    with torch.no_grad():
        torch.testing.assert_close(trainee(inputs, motion=True), trainee(inputs, motion=False), atol=1e-6, rtol=0)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_each_stage_trains_its_own_parts(trainee: TrainingModel, stage: object, data: EncodedData) -> None:
    assert stage in (SINGLE, VOICE, ALL)
    stage.prepare(trainee)
    trainee.zero_grad(set_to_none=True)
    loss = stage_loss(trainee, stage, data, step=3, progress=0.5)
    loss.backward()
    assert 0 < loss.item() < 100
    moved = {name.split(".")[0] for name, p in trainee.named_parameters() if p.grad is not None and p.grad.any()}
    motion = any("motion_modules" in name and p.grad is not None for name, p in trainee.named_parameters())
    networks = {"reference_net", "denoising_unet", "v_kps_guider", "audio_projection"}
    voice = {"audio_projection", "denoising_unet"}
    assert moved == {"single": networks - {"audio_projection"}, "voice": voice, "all": networks}[stage.name]
    assert motion == stage.audio
    frozen = [name for name, p in trainee.named_parameters() if not p.requires_grad]
    assert bool(frozen) == (stage.name != "all")


@pytest.mark.parametrize("case", ["damaged", "of another network", "anything else"])
def test_a_state_that_cannot_be_continued_is_named(tmp_path: Path, case: str) -> None:
    path, loss = tmp_path / "all.pt", lambda module, part: module(torch.ones(1, 2)).sum()
    train(torch.nn.Linear(2, 3), loss, TrainingSchedule(1, save_every=1), path, lambda line: None)
    if case == "damaged":
        path.write_bytes(path.read_bytes()[:-500])
    elif case == "anything else":
        torch.save([1], path)
    with pytest.raises(CheckpointError, match=r"all\.pt cannot be continued \(.+\); .* or choose another --output"):
        train(torch.nn.Linear(2, 4), loss, TrainingSchedule(2), path, lambda line: None)
    if case != "of another network":
        with pytest.raises(CheckpointError, match=r"all\.pt (cannot be read as tensors|is no state of a training)"):
            mean_weights(path)


def test_strong_signals_are_dropped_more_and_more_often() -> None:
    def shares(progress: float) -> list[float]:
        rng = np.random.default_rng(0)
        return (1 - torch.cat([VOICE.keep(rng, progress) for _ in range(2000)]).mean(dim=0)).tolist()

    early, late = shares(0.0), shares(1.0)
    assert early[:2] == pytest.approx([DROP_ALL, DROP_ALL], abs=0.02)
    assert late[:2] == pytest.approx([1 - 0.8 * 0.9, 1 - 0.7 * 0.9], abs=0.02)
    assert late[2] == pytest.approx(early[2], abs=0.02)


def test_kept_strong_signals_are_dropped_with_all_others_only() -> None:
    rng = np.random.default_rng(0)
    kept = np.concatenate([ALL.without_condition_dropout().keep(rng, 1.0).numpy() for _ in range(2000)])
    assert np.array_equal(kept[:, 0], kept[:, 1])
    assert abs((kept[:, 0] == 0).mean() - DROP_ALL) < 0.02


def test_the_loss_counts_most_at_the_mouth() -> None:
    weights = mouth_weights(POINTS[None], SIDE, 3.0)
    assert weights.mean().item() == pytest.approx(1)
    row, column = divmod(int(weights.argmax()), SIDE)
    assert column in (7, 8)
    assert (row + 0.5) * SIZE / SIDE == pytest.approx(87, abs=8)


def test_drawings_are_the_runtimes(data: EncodedData) -> None:
    drawn = keypoint_maps(data.keypoints[:1, :2])
    assert drawn.shape == (1, 2, 3, SIZE, SIZE)
    assert drawn[0, 0, :, 50, 44].tolist() == [1.0, 0.0, 0.0]


def test_noise_and_target_are_two_views_of_one_rotation() -> None:
    clean, timesteps = torch.randn(5, 2, 3), torch.tensor([0, 250, 500, 750, 999])
    noisy, wanted, weight = noised(clean, timesteps, torch.Generator().manual_seed(0))
    a, s = (x.sqrt().float()[:, None, None] for x in (ALPHAS[timesteps], 1 - ALPHAS[timesteps]))
    torch.testing.assert_close(a * noisy - s * wanted, clean, atol=1e-5, rtol=1e-5)
    assert weight.min() == pytest.approx(MIN_WEIGHT)
    assert weight.max() <= MIN_SNR / (MIN_SNR + 1)


class Line(nn.Module):
    """y = a x, to be found."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(1))


def line_loss(module: nn.Module, step: int) -> Tensor:
    x = torch.randn(8, generator=torch.Generator().manual_seed(step))
    return (module.a * x - 3 * x).square().mean()  # type: ignore[operator]


def run(path: Path, steps: int, total: int = 40) -> float:
    schedule = TrainingSchedule(total, learning_rate=0.2, warmup=5, ema_decay=0.8, report_every=10, save_every=10)
    stop = {"at": steps}

    def loss(module: nn.Module, step: int) -> Tensor:
        if step == stop["at"]:
            raise KeyboardInterrupt
        return line_loss(module, step)

    try:
        mean = train(Line(), loss, schedule, path, lambda line: None)
    except KeyboardInterrupt:
        return float("nan")
    return float(mean.a.detach())  # type: ignore[operator]


def test_a_run_finds_what_it_looks_for_and_an_interrupted_one_ends_the_same(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.pt", steps=1000)
    assert whole == pytest.approx(3, abs=0.3)
    assert np.isnan(run(tmp_path / "parts.pt", steps=25))
    assert run(tmp_path / "parts.pt", steps=1000) == whole


def test_a_finished_run_is_not_begun_again(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.pt", steps=1000)
    assert run(tmp_path / "whole.pt", steps=0) == whole


def test_recovered_weights_count_as_a_finished_run(tmp_path: Path) -> None:
    module = Line()
    torch.nn.init.constant_(module.a, 1.25)
    torch.save(mean_state(module), tmp_path / "recovered.pt")
    assert run(tmp_path / "recovered.pt", steps=0) == 1.25
