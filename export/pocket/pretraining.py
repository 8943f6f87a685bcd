"""What the model stands on, trained before it: the autoencoder, the audio encoder, and the decoder once more alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from export.errors import CheckpointError
from export.pocket.autoencoder import Autoencoder, as_images, as_pictures, crops
from export.pocket.dataset import Shard, load_shard
from export.pocket.hearing import Listener, normalised
from export.pocket.runs import Report, Schedule, train

HELD_OUT = 2  # shards at the end that are only looked at
HELD_OUT_CLIPS = 60
PICTURES, CLIPS = 12, 8  # of a part of a batch
PARTS_A_SHARD = 20  # which a shard is read for


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes, and what it may use.

    data: of `dataset`.  run: states, sample sheets.  deadline: of time.time().
    keep_strong: photo and keypoints are never dropped alone, for comparison.
    """

    data: Path
    run: Path
    report: Report
    deadline: float = math.inf
    threads: int = 1
    keep_strong: bool = False

    def shards(self) -> list[Path]:
        """Files of pictures; the last HELD_OUT are not for training."""
        return sorted(self.data.glob("people-*.npz"))


def train_autoencoder(place: Place, schedule: Schedule) -> nn.Module:
    """Both halves, on crops."""
    torch.manual_seed(0)
    return _train_pictures(Autoencoder(), place, schedule, "autoencoder")


def train_decoder(place: Place, schedule: Schedule) -> nn.Module:
    """The decoder goes on alone: latents stay what the denoiser learned."""
    module = load_autoencoder(place)
    module.vae_encoder.requires_grad_(False)
    return _train_pictures(module, place, schedule, "decoder")


def load_autoencoder(place: Place) -> Autoencoder:
    """As its own stage left it: what made the latents."""
    module = Autoencoder()
    module.load_state_dict(mean_weights(place.run / "autoencoder.pt"))
    return module.eval()


def mean_weights(path: Path) -> dict[str, Tensor]:
    """The running mean that a run of `runs.train` wrote. Raises CheckpointError if there is none."""
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: run that stage first: python -m export.pocket.train --output {path.parent} "
            f"--stages {path.stem}"
        )
    mean = torch.load(path, weights_only=True)["mean"]
    return {name.removeprefix("module."): value for name, value in mean.items() if name.startswith("module.")}


def _train_pictures(module: Autoencoder, place: Place, schedule: Schedule, name: str) -> nn.Module:
    shown = load_shard(place.shards()[-1])
    images = shown.images[:6, [0, 5, 12, 13]].reshape(-1, *shown.images.shape[2:])

    def sample(mean: Autoencoder, step: int) -> None:
        with torch.no_grad():
            found = as_images(mean.picture(mean.latent(as_pictures(images))))
        error = np.square(found.astype(float) - images).mean()
        place.report(f"{name}: step {step}, {10 * math.log10(255**2 / error):.2f} dB on people held out")
        rows = [np.concatenate(list(part[:12]), axis=1) for part in (images, found)]
        Image.fromarray(np.concatenate(rows)).save(place.run / f"{name}-{step:05}.png")

    loss, state = partial(_autoencoder_loss, place.shards()), place.run / f"{name}.pt"
    return train(module, loss, schedule, state, place.report, sample, place.deadline, place.threads)


def _autoencoder_loss(paths: list[Path], module: Autoencoder, part: int) -> Tensor:
    chosen = int(np.random.default_rng((part // PARTS_A_SHARD, 2)).integers(len(paths) - HELD_OUT))
    shard, rng = _shard(paths[chosen]), np.random.default_rng((part, 1))
    index = rng.integers(len(shard.images), size=PICTURES), rng.integers(shard.images.shape[1], size=PICTURES)
    batch = crops(shard.images[index], shard.keypoints[index], rng)
    return module.loss(batch, torch.Generator().manual_seed(part))


@lru_cache(maxsize=2)
def _shard(path: Path) -> Shard:
    return load_shard(path)


def train_hearing(place: Place, schedule: Schedule) -> nn.Module:
    """The audio encoder, on speech whose mouths are known."""
    with np.load(place.data / "speech.npz") as speech:
        clips, mouths = normalised(speech["clips"]), torch.from_numpy(speech["mouths"])

    def loss(module: Listener, part: int) -> Tensor:
        index = np.random.default_rng((part, 1)).integers(HELD_OUT_CLIPS, len(clips), size=CLIPS)
        return module.loss(clips[index], mouths[index])

    def sample(mean: Listener, step: int) -> None:
        with torch.no_grad():
            found = mean.mouths(clips[:HELD_OUT_CLIPS], mouths.shape[1]).numpy()
        alike = _correlations(found[..., 0], mouths[:HELD_OUT_CLIPS, :, 0].numpy())
        place.report(f"hearing: step {step}, openness correlates {np.median(alike):.3f} on clips held out")

    torch.manual_seed(0)
    state = place.run / "hearing.pt"
    return train(Listener(), loss, schedule, state, place.report, sample, place.deadline, place.threads)


def _correlations(found: NDArray[np.float32], true: NDArray[np.float32]) -> list[float]:
    """Of rows that are not constant."""
    return [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(found, true, strict=True) if a.std() > 0 and b.std() > 0]
