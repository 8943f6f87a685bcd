"""The smallest model with every component; its sizes differ from those of the released model."""

from __future__ import annotations

from export.networks.architecture import Architecture
from export.networks.config import AudioProjectionConfig, GuiderConfig, UNetConfig, VaeConfig
from vexpress_rt.bundle.engine_spec import ModelConfig, VideoShape

MICRO = Architecture(
    unet=UNetConfig(
        in_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_attention=(True, False),
        up_attention=(False, True),
        heads=2,
        cross_attention_dim=24,
        groups=4,
        eps=1e-4,
        motion_heads=4,
        motion_positions=6,
    ),
    vae=VaeConfig(
        latent_channels=3, block_out_channels=(4, 8, 8), layers_per_block=1, groups=4, scaling_factor=0.3
    ),
    audio_projection=AudioProjectionConfig(
        embedding_dim=16, output_dim=24, dim=12, depth=1, heads=3, dim_head=5, num_queries=3, ff_mult=2, max_seq_len=6
    ),
    guiders={"keypoints": GuiderConfig(channels=(3, 5, 7), output=8)},
    wav2vec2={
        "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24,
        "conv_dim": [8, 8], "conv_kernel": [10, 4], "conv_stride": [5, 4], "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
    },
    scheduler={"num_train_timesteps": 500, "beta_start": 0.001, "beta_end": 0.02},
    audio_normalize=False,
    sample_rate=8000,
    recommended={"steps": 7, "guidance_scale": 2.5},
    recommended_live={"steps": 3},
)  # fmt: skip
MICRO_SHAPE = VideoShape(16, 24, 3)
MICRO_MODEL = ModelConfig(
    latent_channels=3, vae_factor=4, block_out_channels=(8, 16), layers_per_block=1, down_attention=(True, False),
    up_attention=(False, True), attention_heads=2, cross_attention_dim=24, audio_tokens=3, audio_rows=6,
    audio_hidden_size=16, audio_layers=3, audio_minimum_samples=25, audio_stride=20, audio_normalize=False,
    sample_rate=8000, max_frames=6, train_timesteps=500, beta_start=0.001, beta_end=0.02,
)  # fmt: skip
