"""Write a checkpoint directory in the official layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from export.checkpoint.config_files import write_configs
from export.checkpoint.layout import DETECTOR
from export.errors import CheckpointError
from export.networks.architecture import GUIDER_NETWORKS, Architecture
from export.networks.registry import make_network
from export.staging import staged

Shapes = dict[str, tuple[int, ...]]

# File -> its component, and whether the file holds the component's motion modules; None: the component has none.
FILES: dict[str, tuple[str, bool | None]] = {
    "v-express/reference_net.bin": ("reference_net", None),
    "v-express/denoising_unet.bin": ("denoising_unet", False),
    "v-express/motion_module.bin": ("denoising_unet", True),
    "v-express/v_kps_guider.bin": ("v_kps_guider", None),
    "v-express/depth_guider.bin": ("depth_guider", None),
    "v-express/audio_projection.bin": ("audio_projection", None),
    "sd-vae-ft-mse/diffusion_pytorch_model.safetensors": ("vae", None),
    "wav2vec2-base-960h/pytorch_model.bin": ("audio_encoder", None),
}
# The networks of a component; other components are one network of the same name.
COMPONENT_NETWORKS = {"vae": ("vae_encoder", "vae_decoder")}


def write_checkpoint(
    folder: Path,
    architecture: Architecture,
    make_tensors: Callable[[str, Shapes], dict[str, Tensor]],
    write_detector: Callable[[Path], object],
    report: Callable[[str], object] = lambda _: None,
) -> None:
    """Write a checkpoint directory, which appears under its name when it is complete.

    Args:
        folder: The directory to write. It may exist if it is empty.
        architecture: The hyper-parameters.
        make_tensors: Called with a component and the shapes of its tensors by name; returns the tensors by name.
        write_detector: Called with the path of the face detector's file, which it writes.
        report: Called with a line of progress for each file.

    Raises:
        CheckpointError: `folder` exists and is not empty, or the networks do not fit each other.
        OutputError: The directory cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty: choose another --output or remove it first")
    architecture.check()
    with staged(folder) as (staging, commit):
        write_configs(staging, architecture)
        absent = {network for signal, network in GUIDER_NETWORKS.items() if signal not in architecture.guiders}
        for path, (component, motion) in FILES.items():
            if component in absent:
                continue
            report(f"{component:16} -> {path}")
            shapes = component_shapes(architecture, component)
            if motion is not None:
                shapes = {key: shape for key, shape in shapes.items() if ("motion_modules" in key) == motion}
            _write_tensors(staging / path, make_tensors(component, shapes))
        (staging / DETECTOR).parent.mkdir(parents=True)
        write_detector(staging / DETECTOR)
        commit()


def component_shapes(architecture: Architecture, component: str) -> Shapes:
    """Return the shapes of all tensors of a component, by name.

    Args:
        architecture: The hyper-parameters.
        component: A component of `FILES`.
    """
    modules = [make_network(name, architecture) for name in COMPONENT_NETWORKS.get(component, (component,))]
    return {key: tuple(value.shape) for module in modules for key, value in module.state_dict().items()}


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
