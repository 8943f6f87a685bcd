"""The architecture of the small model: V-Express at 128 x 128 pixels, for two CPU cores."""

from __future__ import annotations

from export.networks.architecture import Architecture
from export.networks.config import AudioProjectionConfig, GuiderConfig, UNetConfig, VaeConfig

SIZE = 128  # pixels, height and width
WINDOW = 12  # frames
FPS = 25

POCKET = Architecture(
    unet=UNetConfig(
        in_channels=8,
        block_out_channels=(48, 64, 80, 80),
        layers_per_block=1,
        heads=2,
        cross_attention_dim=64,
        groups=16,
        motion_heads=2,
    ),
    vae=VaeConfig(latent_channels=8, block_out_channels=(16, 32, 64, 64), layers_per_block=1, groups=4),
    audio_projection=AudioProjectionConfig(
        embedding_dim=64, output_dim=64, dim=64, depth=2, heads=2, dim_head=32, num_queries=4
    ),
    guiders={"keypoints": GuiderConfig(channels=(8, 16, 32, 64), output=48)},
    wav2vec2={
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
        "conv_dim": [32] * 7, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    },
)  # fmt: skip
