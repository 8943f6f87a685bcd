"""Training runs with weights of the micro model, in the layout of the public training code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from export.checkpoint.synthetic import synthetic_tensor
from export.checkpoint.trained_files import TrainingChoice, find_trained_files
from export.checkpoint.writer import component_shapes
from tests.support.micro import MICRO

ALL = ("reference_net", "denoising_unet", "motion_module", "v_kps_guider", "audio_projection")
Tensors = dict[str, Tensor]


def weights(network: str, seed: int) -> Tensors:
    """Return the tensors that the training code saves for a network: the denoising U-Net's have the motion modules."""
    component = "denoising_unet" if network == "motion_module" else network
    return {
        name: torch.from_numpy(synthetic_tensor(seed, component, name, shape))
        for name, shape in component_shapes(MICRO, component).items()
        if network != "motion_module" or "motion_modules" in name
    }


def write_run(
    folder: Path, saved: Mapping[str, Sequence[int]], networks: Sequence[str] = ALL, prefix: str = ""
) -> Path:
    """Write a run whose weights' seeds are their steps, and return its folder.

    Args:
        folder: The run's folder.
        saved: Steps by the name of the stage's folder.
        networks: Networks that every stage saves.
        prefix: Beginning of all names of tensors.
    """
    for stage, steps in saved.items():
        (folder / stage).mkdir(parents=True, exist_ok=True)
        for step in steps:
            for network in networks:
                tensors = {prefix + name: value for name, value in weights(network, step).items()}
                torch.save(tensors, folder / stage / f"{network}-{step}.pth")
    return folder


def touch_run(folder: Path, *files: str) -> Path:
    """Make empty files of these names in the run's folder, and return the folder."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def names(choice: TrainingChoice) -> dict[str, str]:
    """Return the name of the file by component."""
    return {component: file.name for component, file in find_trained_files(choice).files.items()}
