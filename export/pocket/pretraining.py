"""Train the autoencoder and the audio encoder before the model, and the decoder alone after it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from export.checkpoint.tensors import load_file
from export.errors import CheckpointError
from export.pocket.audio_pretraining import MouthFromSamples, normalized_recordings
from export.pocket.autoencoder import Autoencoder, crops, to_model_range, to_uint8
from export.pocket.dataset import Shard, load_shard
from export.pocket.training_loop import Report, TrainingSchedule, train

HELD_OUT = 2  # shards, the last ones, that are not trained on
HELD_OUT_CLIPS = 60
PICTURES, CLIPS = 12, 8  # images, and recordings, in a part of a batch
PARTS_PER_SHARD = 20  # consecutive parts of batches that use the same shard


@dataclass(frozen=True)
class RunContext:
    """Directories and limits of a training run.

    Attributes:
        data: Directory of the training data.
        run: Directory of states and sample sheets.
        report: Called with a line of progress.
        deadline: Value of `time.time()` at which the run stops.
        threads: Number of threads.
        keep_strong: Whether photo and keypoints are never dropped alone, for comparison.
        seed: Seed of the initial weights and of all random numbers of the training.
    """

    data: Path
    run: Path
    report: Report
    deadline: float = math.inf
    threads: int = 1
    keep_strong: bool = False
    seed: int = 0

    def part_seed(self, part: int) -> int:
        """Return the seed of the random numbers of a part of a batch. Runs of different seeds have none in common.

        Args:
            part: Number of the part, less than 2**40.
        """
        return (self.seed << 40) + part

    def shards(self) -> list[Path]:
        """Return the files of the shards; the last HELD_OUT are not trained on."""
        return sorted(self.data.glob("people-*.npz"))


def train_autoencoder(context: RunContext, schedule: TrainingSchedule) -> nn.Module:
    """Train encoder and decoder on crops.

    Args:
        context: The training run.
        schedule: Training schedule.

    Returns:
        The `Autoencoder` with the running mean of its weights.
    """
    torch.manual_seed(context.seed)
    return _train_pictures(Autoencoder(), context, schedule, "autoencoder")


def train_decoder(context: RunContext, schedule: TrainingSchedule) -> nn.Module:
    """Continue to train the decoder alone, so that the latents that the model was trained on do not change.

    Args:
        context: The training run.
        schedule: Training schedule.

    Returns:
        The `Autoencoder` with the running mean of its weights.
    """
    module = load_autoencoder(context)
    module.vae_encoder.requires_grad_(False)
    return _train_pictures(module, context, schedule, "decoder")


def load_autoencoder(context: RunContext) -> Autoencoder:
    """Load the autoencoder that the latents were encoded with.

    Args:
        context: The training run.

    Raises:
        CheckpointError: Its state is missing.
    """
    module = Autoencoder()
    module.load_state_dict(mean_weights(context.run / "autoencoder.pt"))
    return module.eval()


def mean_weights(path: Path) -> dict[str, Tensor]:
    """Load the running mean of the weights from a state of `export.pocket.training_loop.train`.

    Args:
        path: The state.

    Returns:
        The weights by name.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: run that stage first: python -m export.pocket.train --output {path.parent} "
            f"--stages {path.stem}"
        )
    state = load_file(path)
    mean = state.get("mean") if isinstance(state, dict) else None
    if not isinstance(mean, dict):
        raise CheckpointError(f"{path} is no state of a training: remove it, and train that stage again")
    return {name.removeprefix("module."): value for name, value in mean.items() if name.startswith("module.")}


def _train_pictures(module: Autoencoder, context: RunContext, schedule: TrainingSchedule, name: str) -> nn.Module:
    shown = load_shard(context.shards()[-1])
    images = shown.images[:6, [0, 5, 12, 13]].reshape(-1, *shown.images.shape[2:])

    def sample(mean: Autoencoder, step: int) -> None:
        with torch.no_grad():
            found = to_uint8(mean.picture(mean.latent(to_model_range(images))))
        error = np.square(found.astype(float) - images).mean()
        context.report(f"{name}: step {step}, {10 * math.log10(255**2 / error):.2f} dB on people held out")
        rows = [np.concatenate(list(part[:12]), axis=1) for part in (images, found)]
        Image.fromarray(np.concatenate(rows)).save(context.run / f"{name}-{step:05}.png")

    paths, state = context.shards(), context.run / f"{name}.pt"

    def loss(trainee: Autoencoder, part: int) -> Tensor:
        return _autoencoder_loss(paths, trainee, context.part_seed(part))

    return train(module, loss, schedule, state, context.report, sample, context.deadline, context.threads)


def _autoencoder_loss(paths: list[Path], module: Autoencoder, part: int) -> Tensor:
    chosen = int(np.random.default_rng((part // PARTS_PER_SHARD, 2)).integers(len(paths) - HELD_OUT))
    shard, rng = _shard(paths[chosen]), np.random.default_rng((part, 1))
    index = rng.integers(len(shard.images), size=PICTURES), rng.integers(shard.images.shape[1], size=PICTURES)
    batch = crops(shard.images[index], shard.keypoints[index], rng)
    return module.loss(batch, torch.Generator().manual_seed(part))


@lru_cache(maxsize=2)
def _shard(path: Path) -> Shard:
    return load_shard(path)


def train_audio_encoder(context: RunContext, schedule: TrainingSchedule) -> nn.Module:
    """Train the audio encoder: predict mouths from recordings.

    Args:
        context: The training run.
        schedule: Training schedule.

    Returns:
        The `MouthFromSamples` with the running mean of its weights.
    """
    with np.load(context.data / "speech.npz") as speech:
        clips, mouths = normalized_recordings(speech["clips"]), torch.from_numpy(speech["mouths"])

    def loss(module: MouthFromSamples, part: int) -> Tensor:
        index = np.random.default_rng((context.part_seed(part), 1)).integers(HELD_OUT_CLIPS, len(clips), size=CLIPS)
        return module.loss(clips[index], mouths[index])

    def sample(mean: MouthFromSamples, step: int) -> None:
        with torch.no_grad():
            found = mean.mouths(clips[:HELD_OUT_CLIPS], mouths.shape[1]).numpy()
        correlations = _correlations(found[..., 0], mouths[:HELD_OUT_CLIPS, :, 0].numpy())
        context.report(f"hearing: step {step}, openness correlates {np.median(correlations):.3f} on clips held out")

    torch.manual_seed(context.seed)
    state = context.run / "hearing.pt"
    return train(MouthFromSamples(), loss, schedule, state, context.report, sample, context.deadline, context.threads)


def _correlations(found: NDArray[np.float32], true: NDArray[np.float32]) -> list[float]:
    """Return the correlations of the rows that are not constant."""
    return [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(found, true, strict=True) if a.std() > 0 and b.std() > 0]
