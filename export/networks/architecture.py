"""The configuration files of a checkpoint directory -> the hyper-parameters of every network.

Nothing assumes the released sizes. What upstream hard-codes can be overridden in `v-express/config.json`:

    {"audio_projection": {"depth": 4, "heads": 12, "dim_head": 64, "num_queries": 5, "ff_mult": 4, "max_seq_len": 10},
     "motion_module": {"num_attention_heads": 8, "temporal_position_encoding_max_len": 32},
     "scheduler": {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}}

It can also say what suits the model better than the settings of the published pipeline, for what a caller leaves open,
with options of `vexpress_rt.config.RECOMMENDABLE`, such as {"recommended": {"steps": 10}}.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.errors import DOWNLOAD_COMMAND, CheckpointError
from export.networks.config import AudioProjectionConfig, GuiderConfig, UNetConfig, VaeConfig
from vexpress_rt.bundle.engine_spec import ModelConfig
from vexpress_rt.config import check_recommended
from vexpress_rt.errors import ConfigError

UNET_CONFIG = "stable-diffusion-v1-5/unet/config.json"
VAE_CONFIG = "sd-vae-ft-mse/config.json"
AUDIO_CONFIG = "wav2vec2-base-960h/config.json"
AUDIO_PREPROCESSOR = "wav2vec2-base-960h/preprocessor_config.json"
OWN_CONFIG = "v-express/config.json"
RECOMMENDED = "recommended"  # a section of that

# What upstream hard-codes: the released model's values, and the only other keys that OWN_CONFIG may have.
HARD_CODED: dict[str, dict[str, Any]] = {
    "audio_projection": {
        "depth": 4, "heads": 12, "dim_head": 64, "num_queries": 5, "ff_mult": 4, "max_seq_len": 10,
    },
    "motion_module": {"num_attention_heads": 8, "temporal_position_encoding_max_len": 32},
    "scheduler": {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012},
}  # fmt: skip

# Settings of a diffusers U-Net or VAE, or of wav2vec2, that would make another network with the same tensors; absent
# means this value. (Settings that make other tensors need no entry: the weights would not fit.)
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
DOWN_TYPES = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP_TYPES = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
VAE_TYPES = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
# transformers' defaults of what is needed here.
AUDIO_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """The hyper-parameters of every network of a checkpoint."""

    unet: UNetConfig
    vae: VaeConfig
    audio_projection: AudioProjectionConfig
    guider: GuiderConfig
    wav2vec2: dict[str, Any]  # of transformers' Wav2Vec2Config; absent keys have its defaults
    scheduler: dict[str, Any] = field(default_factory=lambda: dict(HARD_CODED["scheduler"]))
    audio_normalize: bool = True
    sample_rate: int = 16000
    recommended: dict[str, Any] = field(default_factory=dict)  # of GenerationConfig's options

    def check(self) -> None:
        """Raise CheckpointError where two networks do not fit each other."""
        audio = self.audio_projection
        pairs = [
            ("U-Net in_channels", self.unet.in_channels, "VAE latent_channels", self.vae.latent_channels),
            ("audio projection's output", audio.output_dim, "U-Net cross_attention_dim", self.unet.cross_attention_dim),
            ("audio projection's input", audio.embedding_dim, "wav2vec2 hidden_size", self.audio_hidden_size),
            ("guider's output", self.guider.output, "U-Net's first width", self.unet.block_out_channels[0]),
            (
                "guider's halvings",
                len(self.guider.channels) - 1,
                "VAE levels - 1",
                len(self.vae.block_out_channels) - 1,
            ),
        ]
        if wrong := [f"{a} is {x} but {b} is {y}" for a, x, b, y in pairs if x != y]:
            raise CheckpointError("the networks do not fit each other: " + "; ".join(wrong))

    @property
    def audio_hidden_size(self) -> int:
        """Values of an audio feature."""
        return int(self._audio("hidden_size"))

    def _audio(self, key: str) -> Any:
        return self.wav2vec2.get(key, AUDIO_DEFAULTS[key])

    def model_config(self) -> ModelConfig:
        """What the runtime must know."""
        return ModelConfig(
            latent_channels=self.unet.in_channels,
            vae_factor=self.vae.factor,
            block_out_channels=self.unet.block_out_channels,
            layers_per_block=self.unet.layers_per_block,
            down_attention=self.unet.down_attention,
            up_attention=self.unet.up_attention,
            attention_heads=self.unet.heads,
            cross_attention_dim=self.unet.cross_attention_dim,
            audio_tokens=self.audio_projection.num_queries,
            audio_rows=self.audio_projection.max_seq_len,
            audio_hidden_size=self.audio_hidden_size,
            audio_layers=int(self._audio("num_hidden_layers")),
            audio_minimum_samples=self._receptive_field(),
            audio_stride=math.prod(self._audio("conv_stride")),
            audio_normalize=self.audio_normalize,
            sample_rate=self.sample_rate,
            max_frames=self.unet.motion_positions,
            train_timesteps=int(self.scheduler["num_train_timesteps"]),
            beta_start=float(self.scheduler["beta_start"]),
            beta_end=float(self.scheduler["beta_end"]),
        )

    def _receptive_field(self) -> int:
        """Samples that the first feature is made of."""
        samples = 1
        pairs = zip(self._audio("conv_kernel"), self._audio("conv_stride"), strict=True)
        for kernel, stride in reversed(list(pairs)):
            samples = (samples - 1) * stride + kernel
        return samples


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError if the file is missing or is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: complete the checkpoint with {DOWNLOAD_COMMAND}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no readable JSON ({error}): fetch the file again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, expected a JSON object")
    return data


def read_own(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """HARD_CODED with what `v-express/config.json`, if there, says otherwise, and what that recommends.

    Unknown keys are refused.
    """
    path = folder / OWN_CONFIG
    given = read_json(path) if path.exists() else {}
    recommended = given.pop(RECOMMENDED, {})
    if not isinstance(recommended, dict):
        raise CheckpointError(f"{path} has {RECOMMENDED} = {recommended!r}; expected an object")
    try:
        check_recommended(recommended)
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    return _overrides(path, given), recommended


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
    """The U-Net's hyper-parameters from its diffusers configuration, and those of its motion modules."""
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
    """The autoencoder's hyper-parameters from its diffusers configuration."""
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
    """wav2vec2's configuration as it stands; transformers checks what it alone uses."""
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
    """Whether samples are normalised over the clip, and their rate in Hz."""
    path = folder / AUDIO_PREPROCESSOR
    data = read_json(path)
    normalize, rate = data.get("do_normalize", True), data.get("sampling_rate", 16000)
    if type(normalize) is not bool or type(rate) is not int or rate < 1:
        raise CheckpointError(
            f"{path} has do_normalize = {normalize!r} and sampling_rate = {rate!r}; expected true or false, and Hz"
        )
    return normalize, rate


def _refuse_other(path: Path, data: dict[str, Any], fixed: dict[str, Any]) -> None:
    if wrong := [f"{k} = {data[k]!r} (supported: {v!r})" for k, v in fixed.items() if data.get(k, v) != v]:
        raise CheckpointError(f"{path} describes another network: {', '.join(wrong)}")


def _whole(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is no positive whole number")
    return value


def _positive(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is no positive number")
    return float(value)
