"""Trains the model itself, stage after stage, and draws what it can do with people it was not shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from export.pocket.autoencoder import as_images
from export.pocket.dataset import load_shard
from export.pocket.diffusion import ALPHAS
from export.pocket.faces import mouth_opening
from export.pocket.hearing import Interpreter
from export.pocket.material import load_material, spread
from export.pocket.model import Batch, Trainee
from export.pocket.pretraining import HELD_OUT, Place, load_autoencoder, mean_weights
from export.pocket.runs import Schedule, train
from export.pocket.stages import STAGES, VOICE, Stage, drawings, heard, stage_loss
from vexpress_rt.diffusion.samplers import ddim

FRAMES = 128  # of a part of a batch of `train_projection`
PEOPLE, STEPS, SHOWN = 6, 8, 4  # of a sample sheet; SHOWN of a clip's frames are drawn


def train_projection(place: Place, schedule: Schedule) -> nn.Module:
    """The audio projection, to tell the mouth; the stages go on from there."""
    with np.load(place.data / "speech.npz") as speech:
        mouths = torch.from_numpy(speech["mouths"])
    rows = np.load(place.run / "rows.npy", mmap_mode="r")

    def loss(module: Interpreter, part: int) -> Tensor:
        rng = np.random.default_rng((part, 1))
        recordings, frames = (rng.integers(count, size=FRAMES) for count in mouths.shape[:2])
        heard_rows = torch.from_numpy(rows[recordings, frames].astype(np.float32))
        return module.loss(heard_rows, mouths[recordings, frames])

    torch.manual_seed(0)
    state = place.run / "projection.pt"
    return train(Interpreter(), loss, schedule, state, place.report, deadline=place.deadline, threads=place.threads)


def train_stage(place: Place, schedule: Schedule, name: str) -> nn.Module:
    """Train stage `name`, from where the one before it ended."""
    stage, order = STAGES[name].keeping_strong() if place.keep_strong else STAGES[name], list(STAGES)
    torch.manual_seed(0)
    module = Trainee()
    if before := order[: order.index(name)]:
        module.load_state_dict(mean_weights(place.run / f"{before[-1]}.pt"))
    if name == VOICE.name:  # the first that hears
        projection = Interpreter()
        projection.load_state_dict(mean_weights(place.run / "projection.pt"))
        module.audio_projection.load_state_dict(projection.audio_projection.state_dict())
    stage.prepare(module)
    shards = place.shards()
    material = load_material(place, shards[:-HELD_OUT])
    sample = Sheet(place, stage, shards[-1])

    def loss(trainee: Trainee, part: int) -> Tensor:
        return stage_loss(trainee, stage, material, part, min(1.0, part / schedule.parts / schedule.steps))

    state = place.run / f"{name}.pt"
    return train(module, loss, schedule, state, place.report, sample, place.deadline, place.threads)


class Sheet:
    """Called with a model, writes {stage}-{step}.png: of each person the photo, what was drawn, and what is made."""

    def __init__(self, place: Place, stage: Stage, path: Path):
        self.place, self.stage = place, stage
        self.material = load_material(place, [path])
        shard = load_shard(path)
        self.images, self.mouths = shard.images[:PEOPLE], shard.mouths[:PEOPLE]
        self.decoder, self.spread = load_autoencoder(place), spread(place)

    def __call__(self, module: Trainee, step: int) -> None:
        frames = self._frames()
        batch = self._batch(frames)
        with torch.no_grad():
            latents = sample_latents(module, batch, motion=self.stage.heard)
            found = [as_images(self.decoder.picture(person * self.spread)) for person in latents]
        self._measure(np.stack(found), frames, step)
        shown = np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)
        photo, blank = -1, np.zeros_like(self.images[0, 0])
        rows = []
        for drawn, made in zip(self.images, found, strict=True):
            rows.append(np.concatenate([drawn[photo], *drawn[frames[shown]], blank[:, :8], *made[shown]], axis=1))
        Image.fromarray(np.concatenate(rows)).save(self.place.run / f"{self.stage.name}-{step:05}.png")

    def _frames(self) -> NDArray[np.int64]:
        """Pictures to generate: a clip, or some of it and the stills but one, which is the photo."""
        count = self.images.shape[1]
        return np.arange(count - 4) if self.stage.clips else np.array([0, 6, count - 4, count - 3])

    def _batch(self, frames: NDArray[np.int64]) -> Batch:
        material = self.material
        shape = (PEOPLE, len(frames), *material.latents.shape[2:])
        return Batch(
            noisy=torch.randn(shape, generator=torch.Generator().manual_seed(1)),
            timesteps=torch.zeros(shape[:2], dtype=torch.int64),
            reference=torch.from_numpy(material.latents[:PEOPLE, -1].astype(np.float32)),
            drawings=drawings(material.keypoints[:PEOPLE, frames]),
            rows=heard(material, np.arange(PEOPLE)) if self.stage.heard else None,
            keep=torch.ones(PEOPLE, 3),
        )

    def _measure(self, found: NDArray[np.uint8], frames: NDArray[np.int64], step: int) -> None:
        points = self.material.keypoints[:PEOPLE, frames]
        opened = [
            mouth_opening(image, own)
            for person, at in zip(found, points, strict=True)
            for image, own in zip(person, at, strict=True)
        ]
        drawn = self.mouths[:, frames, 0].ravel()
        alike = np.corrcoef(opened, drawn)[0, 1]
        error = np.square(found.astype(float) - self.images[:, frames]).mean()
        decibels = 10 * np.log10(255**2 / error)
        self.place.report(f"{self.stage.name}: step {step}, {decibels:.2f} dB, mouth openings correlate {alike:.3f}")


def sample_latents(module: Trainee, batch: Batch, *, motion: bool, steps: int = STEPS) -> Tensor:
    """Denoise `batch.noisy` by DDIM under all conditions; of unit variance, as they were trained."""
    sampler = ddim(steps, ALPHAS.float().numpy())
    latents = batch.noisy
    for timestep, ((a, b),) in zip(sampler.timesteps, sampler.coefficients, strict=True):
        told = torch.full_like(batch.timesteps, timestep)
        inputs = Batch(latents, told, batch.reference, batch.drawings, batch.rows, batch.keep)
        latents = a * latents + b * module(inputs, motion=motion)
    return latents
