"""Small valid records that several tests start from."""

from __future__ import annotations

from typing import Any

import numpy as np

from vexpress_rt.bundle.engine_spec import ModelConfig

TINY: dict[str, Any] = {
    "latent_channels": 4,
    "vae_factor": 8,
    "block_out_channels": (32, 64, 96, 128),
    "layers_per_block": 2,
    "down_attention": (True, True, True, False),
    "up_attention": (False, True, True, True),
    "attention_heads": 8,
    "cross_attention_dim": 768,
    "audio_tokens": 5,
    "audio_rows": 10,
    "audio_hidden_size": 32,
    "audio_layers": 2,
    "audio_minimum_samples": 400,
    "audio_normalize": True,
    "sample_rate": 16000,
    "max_frames": 32,
    "train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
}


def model_config(**changes: Any) -> ModelConfig:
    """The configuration of the goldens' tiny model, with `changes`."""
    return ModelConfig(**(TINY | changes))


def rising(frames: int) -> Any:
    """A track whose every coordinate is the number of its frame."""
    return np.broadcast_to(np.arange(frames, dtype=np.float32)[:, None, None], (frames, 3, 2)).copy()
