"""Architectures of synthetic checkpoints."""

from __future__ import annotations

from dataclasses import replace

from export.networks.architecture import Architecture
from export.networks.config import AudioProjectionConfig, GuiderConfig, UNetConfig, VaeConfig

TINY = Architecture(
    unet=UNetConfig(block_out_channels=(32, 64, 96, 128)),
    vae=VaeConfig(block_out_channels=(32, 32, 64, 64)),
    audio_projection=AudioProjectionConfig(embedding_dim=32, dim=64, depth=2, heads=4, dim_head=16),
    guiders={"keypoints": GuiderConfig(output=32)},
    wav2vec2={
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    },
)  # fmt: skip
FULL = Architecture(
    unet=UNetConfig(),
    vae=VaeConfig(),
    audio_projection=AudioProjectionConfig(),
    guiders={"keypoints": GuiderConfig()},
    wav2vec2={"hidden_size": 768, "num_hidden_layers": 12},
)
# Half the U-Net channels of the full model, for measurements on CPUs.
HALF = replace(
    FULL, unet=UNetConfig(block_out_channels=(160, 320, 640, 640)), guiders={"keypoints": GuiderConfig(output=160)}
)  # fmt: skip
# The tiny model with a guider of depth beside that of keypoints, and without any guider.
TINY_DEPTH = replace(TINY, guiders={**TINY.guiders, "depth": TINY.guiders["keypoints"]})
TINY_UNGUIDED = replace(TINY, guiders={})
PRESETS = {"tiny": TINY, "tiny-depth": TINY_DEPTH, "tiny-unguided": TINY_UNGUIDED, "half": HALF, "full": FULL}
