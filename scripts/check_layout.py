"""Load every file of a checkpoint directory that diffusers and transformers read, as the public implementation does.

    python -m export.checkpoint --preset tiny --output /tmp/tiny
    python -m venv /tmp/diffusers && /tmp/diffusers/bin/pip install diffusers transformers torch
    /tmp/diffusers/bin/python scripts/check_layout.py /tmp/tiny

Nothing of this project is imported. The exit code is 1 if a file does not load, or a tensor is missing or left over.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import Wav2Vec2Model, Wav2Vec2Processor

# Tensors of diffusers' U-Net that the public reference network lacks.
NOT_IN_REFERENCE_NET = {"conv_norm_out.weight", "conv_norm_out.bias"}


def check_vae(folder: Path) -> list[str]:
    """Return the names of tensors that do not fit the autoencoder's configuration."""
    _, info = AutoencoderKL.from_pretrained(folder / "sd-vae-ft-mse", output_loading_info=True)
    return [str(name) for names in info.values() for name in names]


def check_unet(folder: Path) -> list[str]:
    """Return the names of the reference network's tensors that do not fit the U-Net's configuration."""
    config = UNet2DConditionModel.load_config(folder / "stable-diffusion-v1-5/unet")
    with torch.device("meta"):
        expected = UNet2DConditionModel.from_config(config).state_dict()
    found = torch.load(folder / "v-express/reference_net.bin", weights_only=True)
    names = (set(expected) - NOT_IN_REFERENCE_NET) ^ set(found)
    return sorted(names | {name for name in set(expected) & set(found) if expected[name].shape != found[name].shape})


def check_wav2vec2(folder: Path) -> list[str]:
    """Return the names of tensors that do not fit wav2vec2's configuration; load the processor as well."""
    folder = folder / "wav2vec2-base-960h"
    _, info = Wav2Vec2Model.from_pretrained(folder, output_loading_info=True)
    Wav2Vec2Processor.from_pretrained(folder)
    return [str(name) for names in info.values() for name in names]


def main() -> int:
    """Check each part, print the tensors that do not fit, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkpoint directory")
    folder = parser.parse_args().folder
    print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    wrong = 0
    for part, check in (("VAE", check_vae), ("U-Net", check_unet), ("wav2vec2", check_wav2vec2)):
        names = check(folder)
        wrong += len(names)
        print(f"{part}: {len(names)} tensors do not fit: {', '.join(names[:5])}" if names else f"{part}: loads")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
