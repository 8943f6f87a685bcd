"""Architectures for synthetic weights, and checkpoint directories of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.checkpoint.layout import Shapes, write_layout
from export.checkpoint.synthetic import synthetic_tensor
from export.networks.architecture import Architecture
from export.networks.config import AudioProjectionConfig, GuiderConfig, UNetConfig, VaeConfig
from export.networks.denoising_unet import sinusoidal_positions
from export.networks.detector import synthetic_detector
from vexpress_rt.utils.cpus import usable_cpus

TINY = Architecture(
    unet=UNetConfig(block_out_channels=(32, 64, 96, 128)),
    vae=VaeConfig(block_out_channels=(32, 32, 64, 64)),
    audio_projection=AudioProjectionConfig(embedding_dim=32, dim=64, depth=2, heads=4, dim_head=16),
    guider=GuiderConfig(output=32),
    wav2vec2={
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    },
)  # fmt: skip
FULL = Architecture(
    unet=UNetConfig(),
    vae=VaeConfig(),
    audio_projection=AudioProjectionConfig(),
    guider=GuiderConfig(),
    wav2vec2={"hidden_size": 768, "num_hidden_layers": 12},
)
HALF = replace(  # half the full one's channels: what CPUs are measured with
    FULL, unet=UNetConfig(block_out_channels=(160, 320, 640, 640)), guider=GuiderConfig(output=160)
)
PRESETS = {"tiny": TINY, "half": HALF, "full": FULL}


def write_checkpoint(
    folder: Path, architecture: Architecture, seed: int, progress: Callable[[str], None] = lambda _: None
) -> None:
    """Write synthetic weights (see `export.synthetic`) for `architecture` into `folder`, in the official layout.

    The folder appears under its name only when complete. Raises CheckpointError if it exists and is not empty.
    """
    write_layout(folder, architecture, partial(_tensors, seed), synthetic_detector, progress)


def _tensors(seed: int, component: str, shapes: Shapes) -> dict[str, Tensor]:
    """All values of a component, made by as many threads as there are CPUs: each tensor has a generator of its own."""

    def make(key: str, shape: tuple[int, ...]) -> Tensor:
        if key.endswith(".pe"):
            return sinusoidal_positions(shape[2], shape[1])
        return torch.from_numpy(np.ascontiguousarray(synthetic_tensor(seed, component, key, shape)))

    with ThreadPoolExecutor(usable_cpus()) as pool:
        return dict(zip(shapes, pool.map(make, shapes.keys(), shapes.values()), strict=True))
