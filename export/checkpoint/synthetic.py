"""Synthetic weights, computed from each tensor's name, so that no weights need to be stored.

The goldens use the same formula (docs/model/goldens.md): standard normal values from a generator seeded by component
and tensor, scaled so that activations neither vanish nor explode.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.checkpoint.synthetic_detector import write_synthetic_detector
from export.checkpoint.writer import Shapes, write_checkpoint
from export.networks.architecture import Architecture
from export.networks.denoising_unet import sinusoidal_positions
from vexpress_rt.utils.cpus import usable_cpus

MATRIX_DIMS = 2


def write_synthetic_checkpoint(
    folder: Path, architecture: Architecture, seed: int, report: Callable[[str], object] = lambda _: None
) -> None:
    """Write a checkpoint directory of synthetic weights in the official layout.

    Args:
        folder: The directory to write. It may exist if it is empty.
        architecture: The hyper-parameters, such as those of `export.checkpoint.presets`.
        seed: Seed of the weights.
        report: Called with a line of progress for each file.

    Raises:
        CheckpointError: `folder` exists and is not empty, or the networks do not fit each other.
        OutputError: The directory cannot be written.
    """
    write_checkpoint(folder, architecture, partial(_tensors, seed), write_synthetic_detector, report)


def _tensors(seed: int, component: str, shapes: Shapes) -> dict[str, Tensor]:
    """Make all tensors of a component, in as many threads as there are CPUs: each tensor has its own generator."""

    def make(key: str, shape: tuple[int, ...]) -> Tensor:
        if key.endswith(".pe"):
            return sinusoidal_positions(shape[2], shape[1])
        return torch.from_numpy(np.ascontiguousarray(synthetic_tensor(seed, component, key, shape)))

    with ThreadPoolExecutor(usable_cpus()) as pool:
        return dict(zip(shapes, pool.map(make, shapes.keys(), shapes.values()), strict=True))


def synthetic_tensor(seed: int, component: str, key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the values of a tensor.

    Args:
        seed: Seed of all weights.
        component: The component that the tensor belongs to, such as "denoising_unet" or "vae".
        key: The tensor's name in the state dict of the component.
        shape: The tensor's shape.

    Returns:
        An array of `shape`, made of standard normal values n: n / sqrt(inputs of an output) for most tensors, 1 + 0.1 n
        for the weights of norms, 0.05 n for biases.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{component}.{key}".encode())])
    values = rng.standard_normal(shape).astype(np.float32)
    if len(shape) >= MATRIX_DIMS:
        scale = 0.1 if key == "latents" or "pos_emb" in key else 1 / math.sqrt(math.prod(shape[1:]))
        return (values * scale).astype(np.float32)
    if key.endswith(("weight", "weight_g", "original0")):
        return (1 + 0.1 * values).astype(np.float32)
    return (0.05 * values).astype(np.float32)
