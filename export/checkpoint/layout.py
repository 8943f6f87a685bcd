"""The writer of a checkpoint directory in the official layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from export.build.staging import staged
from export.checkpoint.reader import DETECTOR
from export.errors import CheckpointError
from export.networks import architecture as arch
from export.networks.architecture import Architecture
from export.networks.networks import empty

Shapes = dict[str, tuple[int, ...]]

# File in the official layout -> its component, and whether it holds that one's motion modules (None: there are none).
FILES: dict[str, tuple[str, bool | None]] = {
    "v-express/reference_net.bin": ("reference_net", None),
    "v-express/denoising_unet.bin": ("denoising_unet", False),
    "v-express/motion_module.bin": ("denoising_unet", True),
    "v-express/v_kps_guider.bin": ("v_kps_guider", None),
    "v-express/audio_projection.bin": ("audio_projection", None),
    "sd-vae-ft-mse/diffusion_pytorch_model.safetensors": ("vae", None),
    "wav2vec2-base-960h/pytorch_model.bin": ("audio_encoder", None),
}
PARTS = {"vae": ("vae_encoder", "vae_decoder")}  # networks of a component, where they are not of its name
# No speech is recognised here, but the public implementation loads wav2vec2's tokenizer, which needs a vocabulary.
AUDIO_VOCABULARY = "wav2vec2-base-960h/vocab.json"
VOCABULARY = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4}


def write_layout(
    folder: Path,
    architecture: Architecture,
    tensors: Callable[[str, Shapes], dict[str, Tensor]],
    detector: Callable[[Path], object],
    progress: Callable[[str], object] = lambda _: None,
) -> None:
    """Write a checkpoint of `architecture` into `folder`.

    tensors: a component's values of the names and shapes asked for.  detector: writes the face detector's file.
    The folder appears under its name only when complete. Raises CheckpointError if it exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty: choose another --output or remove it first")
    architecture.check()
    with staged(folder) as (aside, commit):
        _write_configs(aside, architecture)
        for path, (component, motion) in FILES.items():
            progress(f"{component:16} -> {path}")
            shapes = component_shapes(architecture, component)
            if motion is not None:
                shapes = {key: shape for key, shape in shapes.items() if ("motion_modules" in key) == motion}
            _write_tensors(aside / path, tensors(component, shapes))
        (aside / DETECTOR).parent.mkdir(parents=True)
        detector(aside / DETECTOR)
        commit()


def component_shapes(architecture: Architecture, component: str) -> Shapes:
    """Names and shapes of all tensors of a component."""
    modules = [empty(name, architecture) for name in PARTS.get(component, (component,))]
    return {key: tuple(value.shape) for module in modules for key, value in module.state_dict().items()}


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


def _unet_config(a: Architecture) -> dict[str, Any]:
    down = {attends: name for name, attends in arch.DOWN_TYPES.items()}
    up = {attends: name for name, attends in arch.UP_TYPES.items()}
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": a.unet.in_channels,
        "out_channels": a.unet.in_channels,
        "block_out_channels": a.unet.block_out_channels,
        "layers_per_block": a.unet.layers_per_block,
        "down_block_types": [down[x] for x in a.unet.down_attention],
        "up_block_types": [up[x] for x in a.unet.up_attention],
        "attention_head_dim": a.unet.heads,
        "cross_attention_dim": a.unet.cross_attention_dim,
        "norm_num_groups": a.unet.groups,
        "norm_eps": a.unet.eps,
        **arch.UNET_FIXED,
    }


def _write_configs(folder: Path, a: Architecture) -> None:
    audio = {k: v for k, v in asdict(a.audio_projection).items() if k in arch.HARD_CODED["audio_projection"]}
    motion = dict(zip(arch.HARD_CODED["motion_module"], (a.unet.motion_heads, a.unet.motion_positions), strict=True))
    configs: dict[str, dict[str, Any]] = {
        arch.UNET_CONFIG: _unet_config(a),
        arch.VAE_CONFIG: {
            "_class_name": "AutoencoderKL",
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": a.vae.latent_channels,
            "block_out_channels": a.vae.block_out_channels,
            "layers_per_block": a.vae.layers_per_block,
            **{key: [kind] * len(a.vae.block_out_channels) for key, kind in arch.VAE_TYPES.items()},
            "norm_num_groups": a.vae.groups,
            "scaling_factor": a.vae.scaling_factor,
            **arch.VAE_FIXED,
        },
        arch.AUDIO_CONFIG: {**arch.AUDIO_FIXED, **a.wav2vec2},
        arch.AUDIO_PREPROCESSOR: {"do_normalize": a.audio_normalize, "sampling_rate": a.sample_rate},
        AUDIO_VOCABULARY: VOCABULARY,
        arch.OWN_CONFIG: {
            "audio_projection": audio,
            "motion_module": motion,
            "scheduler": a.scheduler,
            arch.RECOMMENDED: a.recommended,
        },
    }
    for name, config in configs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
