"""Train the model by denoising, stage after stage, and write sample sheets of people outside the training data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from export.pocket.audio_pretraining import MouthFromTokens
from export.pocket.autoencoder import to_uint8
from export.pocket.dataset import load_shard
from export.pocket.diffusion import ALPHAS
from export.pocket.encoded_data import latent_std, load_encoded
from export.pocket.faces import mouth_opening
from export.pocket.model import Batch, TrainingModel
from export.pocket.pretraining import HELD_OUT, RunContext, load_autoencoder, mean_weights
from export.pocket.stages import STAGES, VOICE, Stage, audio_features, keypoint_maps, stage_loss
from export.pocket.training_loop import TrainingSchedule, train
from vexpress_rt.diffusion.samplers import ddim

FRAMES = 128  # frames in a part of a batch of `train_projection`
PEOPLE, STEPS, SHOWN = 6, 8, 4  # people, denoising steps, and frames of each clip on a sample sheet


def train_projection(context: RunContext, schedule: TrainingSchedule) -> nn.Module:
    """Pretrain the audio projection: predict the mouth from its tokens.

    Args:
        context: The training run.
        schedule: Training schedule.

    Returns:
        The `MouthFromTokens` with the running mean of its weights.
    """
    with np.load(context.data / "speech.npz") as speech:
        mouths = torch.from_numpy(speech["mouths"])
    windows = np.load(context.run / "rows.npy", mmap_mode="r")

    def loss(module: MouthFromTokens, part: int) -> Tensor:
        rng = np.random.default_rng((context.part_seed(part), 1))
        recordings, frames = (rng.integers(count, size=FRAMES) for count in mouths.shape[:2])
        features = torch.from_numpy(windows[recordings, frames].astype(np.float32))
        return module.loss(features, mouths[recordings, frames])

    torch.manual_seed(context.seed)
    state = context.run / "projection.pt"
    return train(
        MouthFromTokens(), loss, schedule, state, context.report, deadline=context.deadline, threads=context.threads
    )


def train_stage(context: RunContext, schedule: TrainingSchedule, name: str) -> nn.Module:
    """Train a stage, beginning with the weights of the stage before it.

    Args:
        context: The training run.
        schedule: Training schedule.
        name: A key of `export.pocket.stages.STAGES`.

    Returns:
        The `TrainingModel` with the running mean of its weights.

    Raises:
        CheckpointError: The state of an earlier stage is missing.
    """
    stage, order = STAGES[name].without_condition_dropout() if context.keep_strong else STAGES[name], list(STAGES)
    torch.manual_seed(context.seed)
    module = TrainingModel()
    if before := order[: order.index(name)]:
        module.load_state_dict(mean_weights(context.run / f"{before[-1]}.pt"))
    if name == VOICE.name:  # the first stage with audio
        projection = MouthFromTokens()
        projection.load_state_dict(mean_weights(context.run / "projection.pt"))
        module.audio_projection.load_state_dict(projection.audio_projection.state_dict())
    stage.prepare(module)
    shards = context.shards()
    data = load_encoded(context, shards[:-HELD_OUT])
    sample = Sheet(context, stage, shards[-1])

    def loss(trainee: TrainingModel, part: int) -> Tensor:
        progress = min(1.0, part / schedule.parts / schedule.steps)
        return stage_loss(trainee, stage, data, context.part_seed(part), progress)

    state = context.run / f"{name}.pt"
    return train(module, loss, schedule, state, context.report, sample, context.deadline, context.threads)


class Sheet:
    """Writes sample sheets {stage}-{step}.png: the photo, the drawn frames and the generated frames of each person."""

    def __init__(self, context: RunContext, stage: Stage, path: Path):
        """Load the people.

        Args:
            context: The training run.
            stage: The stage that is trained.
            path: The shard with the people.
        """
        self.context, self.stage = context, stage
        self.data = load_encoded(context, [path])
        shard = load_shard(path)
        self.images, self.mouths = shard.images[:PEOPLE], shard.mouths[:PEOPLE]
        self.decoder, self.latent_std = load_autoencoder(context), latent_std(context)

    def __call__(self, module: TrainingModel, step: int) -> None:
        """Generate frames, write the sheet and report how close the frames are to the drawings.

        Args:
            module: The model.
            step: Number of the step, for the name of the file.
        """
        frames = self._frames()
        batch = self._batch(frames)
        with torch.no_grad():
            latents = sample_latents(module, batch, motion=self.stage.audio)
            found = [to_uint8(self.decoder.picture(person * self.latent_std)) for person in latents]
        self._measure(np.stack(found), frames, step)
        shown = np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)
        photo, blank = -1, np.zeros_like(self.images[0, 0])
        rows = []
        for drawn, made in zip(self.images, found, strict=True):
            rows.append(np.concatenate([drawn[photo], *drawn[frames[shown]], blank[:, :8], *made[shown]], axis=1))
        Image.fromarray(np.concatenate(rows)).save(self.context.run / f"{self.stage.name}-{step:05}.png")

    def _frames(self) -> NDArray[np.int64]:
        """Return the images to generate: a clip, or some of its frames and images in other poses."""
        count = self.images.shape[1]
        return np.arange(count - 4) if self.stage.clips else np.array([0, 6, count - 4, count - 3])

    def _batch(self, frames: NDArray[np.int64]) -> Batch:
        data = self.data
        shape = (PEOPLE, len(frames), *data.latents.shape[2:])
        return Batch(
            noisy=torch.randn(shape, generator=torch.Generator().manual_seed(1)),
            timesteps=torch.zeros(shape[:2], dtype=torch.int64),
            reference=torch.from_numpy(data.latents[:PEOPLE, -1].astype(np.float32)),
            keypoint_maps=keypoint_maps(data.keypoints[:PEOPLE, frames]),
            features=audio_features(data, np.arange(PEOPLE)) if self.stage.audio else None,
            keep=torch.ones(PEOPLE, 3),
        )

    def _measure(self, found: NDArray[np.uint8], frames: NDArray[np.int64], step: int) -> None:
        points = self.data.keypoints[:PEOPLE, frames]
        opened = [
            mouth_opening(image, own)
            for person, at in zip(found, points, strict=True)
            for image, own in zip(person, at, strict=True)
        ]
        drawn = self.mouths[:, frames, 0].ravel()
        correlation = np.corrcoef(opened, drawn)[0, 1]
        error = np.square(found.astype(float) - self.images[:, frames]).mean()
        decibels = 10 * np.log10(255**2 / error)
        self.context.report(
            f"{self.stage.name}: step {step}, {decibels:.2f} dB, mouth openings correlate {correlation:.3f}"
        )


def sample_latents(module: TrainingModel, batch: Batch, *, motion: bool, steps: int = STEPS) -> Tensor:
    """Denoise `batch.noisy` with DDIM.

    Args:
        module: The model.
        batch: Conditions and noise.
        motion: Whether frames of a window attend to each other.
        steps: Number of steps.

    Returns:
        Latents of unit variance, (P, T, c, h, w).
    """
    sampler = ddim(steps, ALPHAS.float().numpy())
    latents = batch.noisy
    for timestep, ((a, b),) in zip(sampler.timesteps, sampler.coefficients, strict=True):
        noise_level = torch.full_like(batch.timesteps, timestep)
        inputs = Batch(latents, noise_level, batch.reference, batch.keypoint_maps, batch.features, batch.keep)
        latents = a * latents + b * module(inputs, motion=motion)
    return latents
