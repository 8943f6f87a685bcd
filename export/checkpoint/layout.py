"""The official layout of a checkpoint directory: the paths of its files (docs/bundles.md)."""

from __future__ import annotations

UNET_CONFIG = "stable-diffusion-v1-5/unet/config.json"
VAE_CONFIG = "sd-vae-ft-mse/config.json"
AUDIO_CONFIG = "wav2vec2-base-960h/config.json"
AUDIO_PREPROCESSOR = "wav2vec2-base-960h/preprocessor_config.json"
AUDIO_VOCABULARY = "wav2vec2-base-960h/vocab.json"
OWN_CONFIG = "v-express/config.json"  # read and written by this project alone
DETECTOR = "insightface_models/models/buffalo_l/det_10g.onnx"

RECOMMENDED = "recommended"  # the section of OWN_CONFIG with recommended options
RECOMMENDED_LIVE = "recommended_live"  # the section with those for live sessions
GUIDERS = "guiders"  # the key of OWN_CONFIG with the signals that the checkpoint has guiders for
