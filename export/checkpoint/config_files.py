"""The configuration files of a checkpoint directory: hyper-parameters read from them, and written into them.

Nothing assumes the released sizes. `v-express/config.json` overrides the values that the public implementation
hard-codes:

    {"audio_projection": {"depth": 4, "heads": 12, "dim_head": 64, "num_queries": 5, "ff_mult": 4, "max_seq_len": 10},
     "motion_module": {"num_attention_heads": 8, "temporal_position_encoding_max_len": 32},
     "scheduler": {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}}

Its key "guiders" lists the spatial signals that the checkpoint has a guider for: some of "keypoints"
(v_kps_guider.bin) and "depth" (depth_guider.bin), or none. Without the key, the checkpoint has the guider of the
keypoints alone, as the released one:

    {"guiders": ["keypoints", "depth"]}

Its section "recommended" holds the options of `vexpress_rt.config.RECOMMENDABLE` that suit the model better than those
of the published pipeline, such as {"recommended": {"steps": 10}}. They apply where neither the caller nor a preset
sets the option. "recommended_live" holds options that replace them in live sessions.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.checkpoint.layout import (
    AUDIO_CONFIG,
    AUDIO_PREPROCESSOR,
    AUDIO_VOCABULARY,
    GUIDERS,
    OWN_CONFIG,
    RECOMMENDED,
    RECOMMENDED_LIVE,
    UNET_CONFIG,
    VAE_CONFIG,
)
from export.errors import DOWNLOAD_COMMAND, CheckpointError
from export.networks.architecture import AUDIO_DEFAULTS, GUIDER_NETWORKS, HARD_CODED, Architecture
from export.networks.config import UNetConfig, VaeConfig
from vexpress_rt.config import check_recommended, current_names
from vexpress_rt.errors import ConfigError

# Settings of a diffusers U-Net or VAE, or of wav2vec2, that change what a network computes but not its tensors. Only
# these values are supported; an absent key has them. (With settings that change tensors the weights would not fit.)
UNET_FIXED: dict[str, Any] = {
    "act_fn": "silu", "freq_shift": 0, "flip_sin_to_cos": True, "center_input_sample": False, "downsample_padding": 1,
    "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2DCrossAttn", "resnet_time_scale_shift": "default",
    "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": False, "time_embedding_type": "positional",
    "time_embedding_act_fn": None, "timestep_post_act": None, "use_linear_projection": False, "class_embed_type": None,
    "addition_embed_type": None, "attention_type": "default", "dual_cross_attention": False,
    "only_cross_attention": False,
}  # fmt: skip
VAE_FIXED: dict[str, Any] = {
    "act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None,
}  # fmt: skip
AUDIO_FIXED: dict[str, Any] = {"model_type": "wav2vec2", "add_adapter": False}
# Names of blocks, and whether they have attention.
DOWN_TYPES = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP_TYPES = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
VAE_TYPES = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
RELEASED_GUIDERS = ("keypoints",)  # of a checkpoint that declares none
# No text is recognized here, but the public implementation loads wav2vec2's tokenizer, which needs a vocabulary.
VOCABULARY = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.

    Raises:
        CheckpointError: The file is missing, cannot be read, or holds no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: complete the checkpoint with {DOWNLOAD_COMMAND}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable as JSON ({error}): fetch the file again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, expected a JSON object")
    return data


def read_own(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]], tuple[str, ...]]:
    """Read `v-express/config.json`, which may be missing.

    Args:
        folder: The checkpoint directory.

    Returns:
        `HARD_CODED` with the values of the file in place of its own; the recommended options by section, RECOMMENDED
        and RECOMMENDED_LIVE; and the signals of the guiders, in the order of `GUIDER_NETWORKS`.

    Raises:
        CheckpointError: The file has an unknown key or a value of the wrong kind.
    """
    path = folder / OWN_CONFIG
    given = read_json(path) if path.exists() else {}
    recommended = {
        section: _recommended(path, section, given.pop(section, {})) for section in (RECOMMENDED, RECOMMENDED_LIVE)
    }
    guiders = _guiders(folder, given.pop(GUIDERS, None))
    return _overrides(path, given), recommended, guiders


def _recommended(path: Path, section: str, options: Any) -> dict[str, Any]:
    """Return recommended options under their present names. Raises CheckpointError for other options or values."""
    if not isinstance(options, dict):
        raise CheckpointError(f"{path} has {section} = {options!r}; expected an object")
    options = current_names(options)
    try:
        check_recommended(options)
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used: {section}: {error}") from error
    return options


def _guiders(folder: Path, declared: Any) -> tuple[str, ...]:
    """Return the signals of the guiders. Raises CheckpointError for an unknown one, or a guider's undeclared file."""
    path, names = folder / OWN_CONFIG, ", ".join(GUIDER_NETWORKS)
    if declared is None:
        for signal, network in GUIDER_NETWORKS.items():
            found = [folder / f"v-express/{network}{suffix}" for suffix in (".bin", ".safetensors")]
            if signal not in RELEASED_GUIDERS and (files := [file for file in found if file.exists()]):
                raise CheckpointError(
                    f"{files[0]} is a guider that {path} does not declare: add "
                    f'"{GUIDERS}": {json.dumps([*RELEASED_GUIDERS, signal])} to that file, or remove the guider'
                )
        return RELEASED_GUIDERS
    known = isinstance(declared, list) and all(isinstance(signal, str) for signal in declared)
    if not known or set(declared) - GUIDER_NETWORKS.keys() or len(set(declared)) != len(declared):
        raise CheckpointError(f"{path} has {GUIDERS} = {declared!r}; expected a list of some of {names}, each once")
    return tuple(signal for signal in GUIDER_NETWORKS if signal in declared)


def _overrides(path: Path, given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    result = {section: dict(values) for section, values in HARD_CODED.items()}
    for section, values in given.items():
        if section not in result or not isinstance(values, dict):
            raise CheckpointError(f"{path} has {section!r}; expected objects named {', '.join(result)}")
        for key, value in values.items():
            known = result[section].get(key)
            if known is None:
                raise CheckpointError(f"{path} has {section}.{key}; expected {', '.join(HARD_CODED[section])}")
            if type(value) not in (type(known), int) or not value > 0:
                kind = "number" if isinstance(known, float) else "whole number"
                raise CheckpointError(f"{path} has {section}.{key} = {value!r}; expected a positive {kind}")
            result[section][key] = value
    return result


def read_unet(folder: Path, motion: dict[str, Any]) -> UNetConfig:
    """Read the diffusers configuration of the U-Net.

    Args:
        folder: The checkpoint directory.
        motion: Settings of the motion modules, with the keys of `HARD_CODED["motion_module"]`.

    Raises:
        CheckpointError: The file is missing, or describes another network than that of Stable Diffusion 1.5.
    """
    path = folder / UNET_CONFIG
    data = read_json(path)
    _refuse_other(path, data, UNET_FIXED)
    heads = data.get("num_attention_heads") or data.get("attention_head_dim", 8)
    try:
        config = UNetConfig(
            in_channels=_whole(data.get("in_channels", 4)),
            block_out_channels=tuple(_whole(c) for c in data["block_out_channels"]),
            layers_per_block=_whole(data.get("layers_per_block", 2)),
            down_attention=tuple(DOWN_TYPES[name] for name in data["down_block_types"]),
            up_attention=tuple(UP_TYPES[name] for name in data["up_block_types"]),
            heads=_whole(heads),
            cross_attention_dim=_whole(data["cross_attention_dim"]),
            groups=_whole(data.get("norm_num_groups", 32)),
            eps=_positive(data.get("norm_eps", 1e-5)),
            motion_heads=_whole(motion["num_attention_heads"]),
            motion_positions=_whole(motion["temporal_position_encoding_max_len"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe a Stable Diffusion 1.5 U-Net ({error!r})") from error
    if data.get("out_channels", config.in_channels) != config.in_channels:
        raise CheckpointError(f"{path} has out_channels {data['out_channels']}, but in_channels {config.in_channels}")
    widths, divisors = config.block_out_channels, (config.heads, config.motion_heads, config.groups)
    if len({len(widths), len(config.down_attention), len(config.up_attention)}) != 1:
        raise CheckpointError(f"{path} has {len(widths)} widths; expected as many blocks on the way down and up")
    if any(width % divisor for width in widths for divisor in divisors):
        raise CheckpointError(f"{path} has the widths {widths}; expected multiples of its heads and groups {divisors}")
    return config


def read_vae(folder: Path) -> VaeConfig:
    """Read the diffusers configuration of the autoencoder.

    Args:
        folder: The checkpoint directory.

    Raises:
        CheckpointError: The file is missing, or describes another network than that of Stable Diffusion.
    """
    path = folder / VAE_CONFIG
    data = read_json(path)
    _refuse_other(path, data, VAE_FIXED | {"in_channels": 3, "out_channels": 3})
    try:
        for key, kind in VAE_TYPES.items():
            if set(data.get(key, [])) - {kind}:
                raise ValueError(f"{key} are {data[key]}; expected {kind} alone")
        config = VaeConfig(
            latent_channels=_whole(data.get("latent_channels", 4)),
            block_out_channels=tuple(_whole(c) for c in data["block_out_channels"]),
            layers_per_block=_whole(data.get("layers_per_block", 2)),
            groups=_whole(data.get("norm_num_groups", 32)),
            scaling_factor=_positive(data.get("scaling_factor", 0.18215)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe a Stable Diffusion autoencoder ({error!r})") from error
    if any(width % config.groups for width in config.block_out_channels):
        raise CheckpointError(
            f"{path} has the widths {config.block_out_channels}; expected multiples of its {config.groups} groups"
        )
    return config


def read_wav2vec2(folder: Path) -> dict[str, Any]:
    """Read the configuration of wav2vec2; transformers checks the settings that only it uses.

    Args:
        folder: The checkpoint directory.

    Returns:
        The JSON object, unchanged.

    Raises:
        CheckpointError: The file is missing, or describes another network.
    """
    path = folder / AUDIO_CONFIG
    data = read_json(path)
    _refuse_other(path, data, AUDIO_FIXED)
    try:
        for key, default in AUDIO_DEFAULTS.items():
            value = data.get(key, default)
            for item in value if isinstance(default, list) else [value]:
                _whole(item)
        kernels, strides = (data.get(key, AUDIO_DEFAULTS[key]) for key in ("conv_kernel", "conv_stride"))
        if len(kernels) != len(strides):
            raise ValueError(f"{len(kernels)} kernels and {len(strides)} strides")
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe a wav2vec2 ({error!r})") from error
    return data


def read_preprocessor(folder: Path) -> tuple[bool, int]:
    """Read how the samples are prepared for wav2vec2.

    Args:
        folder: The checkpoint directory.

    Returns:
        Whether samples are normalized over the whole recording, and their rate in Hz.

    Raises:
        CheckpointError: The file is missing, or has other values than true or false, and a positive whole number.
    """
    path = folder / AUDIO_PREPROCESSOR
    data = read_json(path)
    normalize, rate = data.get("do_normalize", True), data.get("sampling_rate", 16000)
    if type(normalize) is not bool or type(rate) is not int or rate < 1:
        raise CheckpointError(
            f"{path} has do_normalize = {normalize!r} and sampling_rate = {rate!r}; expected true or false, and Hz"
        )
    return normalize, rate


def write_configs(folder: Path, architecture: Architecture) -> None:
    """Write all configuration files, in the form that diffusers and transformers read.

    Args:
        folder: The checkpoint directory; folders inside it are created.
        architecture: The hyper-parameters.
    """
    a = architecture
    audio = {k: v for k, v in asdict(a.audio_projection).items() if k in HARD_CODED["audio_projection"]}
    motion = dict(zip(HARD_CODED["motion_module"], (a.unet.motion_heads, a.unet.motion_positions), strict=True))
    guiders = [signal for signal in GUIDER_NETWORKS if signal in a.guiders]
    configs: dict[str, dict[str, Any]] = {
        UNET_CONFIG: _unet_settings(a.unet),
        VAE_CONFIG: _vae_settings(a.vae),
        AUDIO_CONFIG: {**AUDIO_FIXED, **a.wav2vec2},
        AUDIO_PREPROCESSOR: {"do_normalize": a.audio_normalize, "sampling_rate": a.sample_rate},
        AUDIO_VOCABULARY: VOCABULARY,
        OWN_CONFIG: {
            "audio_projection": audio,
            "motion_module": motion,
            "scheduler": a.scheduler,
            **({} if tuple(guiders) == RELEASED_GUIDERS else {GUIDERS: guiders}),
            RECOMMENDED: a.recommended,
            **({RECOMMENDED_LIVE: a.recommended_live} if a.recommended_live else {}),
        },
    }
    for name, config in configs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _unet_settings(config: UNetConfig) -> dict[str, Any]:
    down = {attends: name for name, attends in DOWN_TYPES.items()}
    up = {attends: name for name, attends in UP_TYPES.items()}
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "down_block_types": [down[x] for x in config.down_attention],
        "up_block_types": [up[x] for x in config.up_attention],
        "attention_head_dim": config.heads,
        "cross_attention_dim": config.cross_attention_dim,
        "norm_num_groups": config.groups,
        "norm_eps": config.eps,
        **UNET_FIXED,
    }


def _vae_settings(config: VaeConfig) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": config.latent_channels,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        **{key: [kind] * len(config.block_out_channels) for key, kind in VAE_TYPES.items()},
        "norm_num_groups": config.groups,
        "scaling_factor": config.scaling_factor,
        **VAE_FIXED,
    }


def _refuse_other(path: Path, data: dict[str, Any], fixed: dict[str, Any]) -> None:
    if wrong := [f"{k} = {data[k]!r} (supported: {v!r})" for k, v in fixed.items() if data.get(k, v) != v]:
        raise CheckpointError(f"{path} describes another network: {', '.join(wrong)}")


def _whole(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is not a positive whole number")
    return value


def _positive(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is not a positive number")
    return float(value)
