"""The states that `export.pocket.train` writes: `{"step", "module", "mean", "optimizer"}`.

`mean` is the result of the training, the running mean of the weights: `module.NETWORK.TENSOR` by name, and a count.
A recovered state has nothing else.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from export.checkpoint.tensors import load_file, named_tensors
from export.errors import CheckpointError
from vexpress_rt.bundle.training_record import STEP_LIMIT

MEAN, WRAPPER = "mean", "module."  # the wrapper of running means, and of distributed training
MOTION = "motion_modules."  # in the names of the motion modules' tensors
# Networks of a state that a component consists of, where they are not the one of its name.
_NETWORKS = {"vae": ("vae_encoder", "vae_decoder"), "motion_module": ("denoising_unet",)}
LATENTS_LIMIT = 1 << 30  # bytes


def read_component(path: Path, component: str) -> Mapping[str, Tensor]:
    """Map the tensors of a component into memory, from a file of it alone or from a training state.

    Args:
        path: The file. If all names begin with `module.`, as in a distributed run, they are returned without that.
        component: One of `export.checkpoint.trained_files.COMPONENTS`.

    Returns:
        The tensors by their names in the official layout.

    Raises:
        CheckpointError: The file is damaged or holds anything else, or the state has no such network.
    """
    loaded = load_file(path)
    if not _is_state(loaded):
        return _unwrapped(named_tensors(path, loaded))
    mean = _mean(path, loaded)
    found: dict[str, Tensor] = {}
    for network in _NETWORKS.get(component, (component,)):
        prefix = f"{WRAPPER}{network}."
        found |= {name.removeprefix(prefix): value for name, value in mean.items() if name.startswith(prefix)}
    if component == "motion_module":
        found = {name: value for name, value in found.items() if MOTION in name}
    if not found:
        held = ", ".join(sorted(_networks(mean))) or "no networks"
        raise CheckpointError(f"{path} has no {component}; it has {held}: give another file")
    return found


def read_contents(path: Path) -> tuple[int | None, set[str]]:
    """Return what a training state holds.

    Args:
        path: The state.

    Returns:
        Its step, None for a recovered state, and the names of its networks.

    Raises:
        CheckpointError: The file is damaged, or no training state.
    """
    loaded = load_file(path)
    step = loaded.get("step") if _is_state(loaded) else None
    if not _is_state(loaded) or not (step is None or (type(step) is int and 0 <= step < STEP_LIMIT)):
        raise CheckpointError(f"{path} is not a state of export.pocket.train: give another folder with --run")
    return step, _networks(_mean(path, loaded))


def latent_scale(path: Path) -> float:
    """Return the scaling factor of the autoencoder whose latents a run was trained on.

    Args:
        path: The run's first file of latents.

    Returns:
        1 / their standard deviation.

    Raises:
        CheckpointError: The file is damaged or holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            items = archive.infolist()
        size = sum(item.file_size for item in items)
        if any(item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for item in items):
            raise ValueError("a compression other than deflate")  # the others unpack without a bound
        if size > LATENTS_LIMIT:
            raise ValueError(f"{size} bytes; expected at most {LATENTS_LIMIT}")
        with np.load(path, allow_pickle=False) as data:
            std = float(data["latents"].astype(np.float64).std())
        if not 0 < std < np.inf:
            raise ValueError(f"a standard deviation of {std}")
    except Exception as error:  # damaged archives can raise any exception
        raise CheckpointError(f"{path} cannot be read as latents ({error}): delete it and encode again") from error
    return 1 / std


def _is_state(loaded: Any) -> bool:
    return isinstance(loaded, dict) and isinstance(loaded.get(MEAN), dict)


def _mean(path: Path, state: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in named_tensors(path, state[MEAN]).items() if name.startswith(WRAPPER)}


def _networks(mean: Mapping[str, Tensor]) -> set[str]:
    return {name.removeprefix(WRAPPER).partition(".")[0] for name in mean}


def _unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    while tensors and all(name.startswith(WRAPPER) for name in tensors):
        tensors = {name.removeprefix(WRAPPER): value for name, value in tensors.items()}
    return tensors
