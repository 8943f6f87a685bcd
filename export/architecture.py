"""The configuration files of a checkpoint directory -> the hyper-parameters of every network.

Nothing assumes the released sizes. What upstream hard-codes can be overridden in `v-express/config.json`:

    {"audio_projection": {"depth": 4, "heads": 12, "dim_head": 64, "num_queries": 5, "ff_mult": 4, "max_seq_len": 10},
     "motion_module": {"num_attention_heads": 8, "temporal_position_encoding_max_len": 32},
     "scheduler": {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}}
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.errors import CheckpointError
from export.models.config import AudioProjectionConfig, GuiderConfig, UNetConfig, VaeConfig
from vexpress_rt.specs import ModelConfig

UNET_CONFIG = "stable-diffusion-v1-5/unet/config.json"
VAE_CONFIG = "sd-vae-ft-mse/config.json"
AUDIO_CONFIG = "wav2vec2-base-960h/config.json"
AUDIO_PREPROCESSOR = "wav2vec2-base-960h/preprocessor_config.json"
OWN_CONFIG = "v-express/config.json"

# What upstream hard-codes: the released model's values, and the only keys that OWN_CONFIG may have.
HARD_CODED: dict[str, dict[str, Any]] = {
    "audio_projection": {
        "depth": 4, "heads": 12, "dim_head": 64, "num_queries": 5, "ff_mult": 4, "max_seq_len": 10,
    },
    "motion_module": {"num_attention_heads": 8, "temporal_position_encoding_max_len": 32},
    "scheduler": {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012},
}  # fmt: skip

# Settings of a diffusers U-Net or VAE that would make another network; absent means this value.
UNET_FIXED = {
    "act_fn": "silu", "freq_shift": 0, "flip_sin_to_cos": True, "center_input_sample": False, "downsample_padding": 1,
    "mid_block_scale_factor": 1, "norm_eps": 1e-5, "use_linear_projection": False, "class_embed_type": None,
}  # fmt: skip
VAE_FIXED = {"act_fn": "silu"}
DOWN_TYPES = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP_TYPES = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}


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
        return int(self.wav2vec2.get("hidden_size", 768))

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
            audio_layers=int(self.wav2vec2.get("num_hidden_layers", 12)),
            audio_minimum_samples=self._receptive_field(),
            audio_normalize=self.audio_normalize,
            sample_rate=self.sample_rate,
            max_frames=self.unet.motion_positions,
            train_timesteps=int(self.scheduler["num_train_timesteps"]),
            beta_start=float(self.scheduler["beta_start"]),
            beta_end=float(self.scheduler["beta_end"]),
        )

    def _receptive_field(self) -> int:
        samples = 1
        kernels = self.wav2vec2.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))
        strides = self.wav2vec2.get("conv_stride", (5, 2, 2, 2, 2, 2, 2))
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError if the file is missing or is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: complete the checkpoint directory") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no readable JSON ({error}): fetch the file again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, expected a JSON object")
    return data


def read_overrides(folder: Path) -> dict[str, dict[str, Any]]:
    """HARD_CODED with what `v-express/config.json`, if there, says otherwise. Unknown keys are refused."""
    path = folder / OWN_CONFIG
    given = read_json(path) if path.exists() else {}
    result = {section: dict(values) for section, values in HARD_CODED.items()}
    for section, values in given.items():
        if section not in result or not isinstance(values, dict):
            raise CheckpointError(f"{path} has {section!r}; expected objects named {', '.join(result)}")
        for key, value in values.items():
            known = result[section].get(key)
            if known is None or type(value) not in (type(known), int):
                raise CheckpointError(
                    f"{path} has {section}.{key} = {value!r}; expected {', '.join(HARD_CODED[section])}"
                )
            result[section][key] = value
    return result


def read_unet(folder: Path, motion: dict[str, Any]) -> UNetConfig:
    """The U-Net's hyper-parameters from its diffusers configuration."""
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
            motion_heads=_whole(motion["num_attention_heads"]),
            motion_positions=_whole(motion["temporal_position_encoding_max_len"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe a Stable Diffusion 1.5 U-Net ({error!r})") from error
    levels = {len(config.block_out_channels), len(config.down_attention), len(config.up_attention)}
    if len(levels) != 1 or any(c % config.heads or c % config.groups for c in config.block_out_channels):
        raise CheckpointError(f"{path}: widths {config.block_out_channels} do not fit its blocks, heads or groups")
    return config


def read_vae(folder: Path) -> VaeConfig:
    """The autoencoder's hyper-parameters from its diffusers configuration."""
    path = folder / VAE_CONFIG
    data = read_json(path)
    _refuse_other(path, data, VAE_FIXED)
    try:
        return VaeConfig(
            image_channels=_whole(data.get("in_channels", 3)),
            latent_channels=_whole(data.get("latent_channels", 4)),
            block_out_channels=tuple(_whole(c) for c in data["block_out_channels"]),
            layers_per_block=_whole(data.get("layers_per_block", 2)),
            groups=_whole(data.get("norm_num_groups", 32)),
            scaling_factor=float(data.get("scaling_factor", 0.18215)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe a Stable Diffusion autoencoder ({error!r})") from error


def _refuse_other(path: Path, data: dict[str, Any], fixed: dict[str, Any]) -> None:
    if wrong := [f"{k} = {data[k]!r} (supported: {v!r})" for k, v in fixed.items() if data.get(k, v) != v]:
        raise CheckpointError(f"{path} describes another network: {', '.join(wrong)}")


def _whole(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is no positive whole number")
    return value
