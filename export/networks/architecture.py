"""The hyper-parameters of all networks of a checkpoint together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from export.errors import CheckpointError
from export.networks.config import AudioProjectionConfig, GuiderConfig, UNetConfig, VaeConfig
from vexpress_rt.bundle.engine_spec import ModelConfig

# The public implementation hard-codes these; they are the released model's values.
HARD_CODED: dict[str, dict[str, Any]] = {
    "audio_projection": {
        "depth": 4, "heads": 12, "dim_head": 64, "num_queries": 5, "ff_mult": 4, "max_seq_len": 10,
    },
    "motion_module": {"num_attention_heads": 8, "temporal_position_encoding_max_len": 32},
    "scheduler": {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012},
}  # fmt: skip
# The network of each signal's guider, by the names of `engine_spec.GUIDERS`.
GUIDER_NETWORKS = {"keypoints": "v_kps_guider", "depth": "depth_guider"}
# The defaults of transformers for the settings of wav2vec2 that are used here.
AUDIO_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """The hyper-parameters of every network of a checkpoint.

    Attributes:
        unet: Hyper-parameters of the reference network and the denoising U-Net.
        vae: Hyper-parameters of the autoencoder.
        audio_projection: Hyper-parameters of the perceiver that makes audio tokens.
        guiders: Hyper-parameters of the guider of each spatial signal, some of `GUIDER_NETWORKS`; {} for no guider.
        wav2vec2: Settings of transformers' `Wav2Vec2Config`; absent keys have its defaults.
        scheduler: The noise schedule, with the keys of `HARD_CODED["scheduler"]`.
        audio_normalize: Whether samples are normalized to mean 0 and variance 1 over the whole recording.
        sample_rate: Sample rate of the audio in Hz.
        recommended: Options of `GenerationConfig` that suit the model better than the defaults.
        recommended_live: Options for live sessions, where they replace those of `recommended`.
    """

    unet: UNetConfig
    vae: VaeConfig
    audio_projection: AudioProjectionConfig
    guiders: dict[str, GuiderConfig]
    wav2vec2: dict[str, Any]
    scheduler: dict[str, Any] = field(default_factory=lambda: dict(HARD_CODED["scheduler"]))
    audio_normalize: bool = True
    sample_rate: int = 16000
    recommended: dict[str, Any] = field(default_factory=dict)
    recommended_live: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Compare the sizes that connected networks share.

        Raises:
            CheckpointError: Two networks do not fit each other.
        """
        audio = self.audio_projection
        pairs = [
            ("U-Net in_channels", self.unet.in_channels, "VAE latent_channels", self.vae.latent_channels),
            ("audio projection's output", audio.output_dim, "U-Net cross_attention_dim", self.unet.cross_attention_dim),
            ("audio projection's input", audio.embedding_dim, "wav2vec2 hidden_size", self.audio_hidden_size),
        ]
        halvings = len(self.vae.block_out_channels) - 1
        for signal, guider in self.guiders.items():
            pairs += [
                (f"{signal} guider's output", guider.output, "U-Net's first width", self.unet.block_out_channels[0]),
                (f"{signal} guider's halvings", len(guider.channels) - 1, "VAE levels - 1", halvings),
            ]
        if wrong := [f"{a} is {x} but {b} is {y}" for a, x, b, y in pairs if x != y]:
            raise CheckpointError("the networks do not fit each other: " + "; ".join(wrong))

    @property
    def audio_hidden_size(self) -> int:
        """Size of an audio feature."""
        return int(self._audio("hidden_size"))

    def _audio(self, key: str) -> Any:
        return self.wav2vec2.get(key, AUDIO_DEFAULTS[key])

    def model_config(self) -> ModelConfig:
        """Return the part of the hyper-parameters that the runtime needs, for the manifest of a bundle."""
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
            guiders=tuple(signal for signal in GUIDER_NETWORKS if signal in self.guiders),
        )

    def _receptive_field(self) -> int:
        """Return the number of samples that the first audio feature depends on."""
        samples = 1
        pairs = zip(self._audio("conv_kernel"), self._audio("conv_stride"), strict=True)
        for kernel, stride in reversed(list(pairs)):
            samples = (samples - 1) * stride + kernel
        return samples
