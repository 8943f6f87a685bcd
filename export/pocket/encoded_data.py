"""The training data as latents and audio features, encoded once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.pocket.architecture import POCKET
from export.pocket.audio_pretraining import MouthFromSamples, normalized_recordings
from export.pocket.autoencoder import Autoencoder, to_model_range
from export.pocket.dataset import load_shard, save
from export.pocket.pretraining import RunContext, load_autoencoder, mean_weights
from vexpress_rt.stages.audio_features import feature_windows


@dataclass(frozen=True)
class EncodedData:
    """Encoded shards: P people with N images each; see `export.pocket.dataset.Shard`.

    Attributes:
        latents: (P, N, c, h, w) float16, of unit variance.
        keypoints: (P, N, 3, 2) float32, pixels.
        features: Feature window of every frame, (recordings, frames, R, A) float16.
        speech: Number of the recording, and the frame of it at which the clip begins, (P, 2).
    """

    latents: NDArray[np.float16]
    keypoints: NDArray[np.float32]
    features: NDArray[np.float16]
    speech: NDArray[np.int64]


def encode(context: RunContext) -> None:
    """Encode the images and the speech, and write them beside the states; existing files are kept.

    Args:
        context: The training run.

    Raises:
        CheckpointError: The state of the autoencoder or of the audio encoder is missing.
    """
    module = load_autoencoder(context).to(memory_format=torch.channels_last)  # 1.7x faster on two cores
    with ThreadPoolExecutor(context.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(partial(_encode_shard, module, context.run), context.shards()))
    _encode_speech(context)
    context.report(f"encoded: {len(context.shards())} shards; latents are divided by {latent_std(context):.4f}")


def latent_std(context: RunContext) -> float:
    """Return the standard deviation of the unscaled latents, 1 / the checkpoint's scaling factor.

    Args:
        context: The training run, in which `encode` has written the latents.
    """
    with np.load(_latents(context.run, context.shards()[0])) as data:
        return float(data["latents"].astype(np.float64).std())


def load_encoded(context: RunContext, shards: list[Path]) -> EncodedData:
    """Read encoded shards.

    Args:
        context: The training run, in which `encode` has written the latents.
        shards: Files of the training data.
    """
    read = [load_shard(path) for path in shards]
    latents = []
    for path in shards:
        with np.load(_latents(context.run, path)) as data:
            latents.append(data["latents"])
    unit = np.concatenate(latents)
    unit /= np.float16(latent_std(context))
    return EncodedData(
        latents=unit,
        keypoints=np.concatenate([shard.keypoints for shard in read]),
        features=np.load(context.run / "rows.npy", mmap_mode="r"),
        speech=np.concatenate([shard.speech for shard in read]),
    )


def _latents(run: Path, shard: Path) -> Path:
    return run / f"latents-{shard.stem.partition('-')[2]}.npz"


@torch.inference_mode()
def _encode_shard(module: Autoencoder, run: Path, path: Path) -> None:
    if _latents(run, path).exists():
        return
    images = load_shard(path).images
    latents = [module.latent(to_model_range(person)).numpy() for person in images]
    save(_latents(run, path), latents=np.stack(latents).astype(np.float16))


@torch.inference_mode()
def _encode_speech(context: RunContext) -> None:
    path = context.run / "rows.npy"
    if path.exists():
        return
    encoder = MouthFromSamples()
    encoder.load_state_dict(mean_weights(context.run / "hearing.pt"))
    with np.load(context.data / "speech.npz") as speech:
        clips, frames = normalized_recordings(speech["clips"]), speech["mouths"].shape[1]
    count = POCKET.audio_projection.max_seq_len
    windows = []
    for clip in clips:
        features = encoder.eval().features(clip[None])[0].numpy()
        windows.append(feature_windows(features, frames, count, 0, frames).astype(np.float16))
    part = path.with_name(f".{path.name}")
    np.save(part, np.stack(windows))
    part.replace(path)
