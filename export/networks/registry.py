"""The networks of a checkpoint by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from export.errors import CheckpointError
from export.networks.architecture import Architecture
from export.networks.audio_projection import AudioProjection
from export.networks.denoising_unet import DenoisingUNet
from export.networks.guider import Guider
from export.networks.reference_net import ReferenceNet
from export.networks.vae import VaeDecoder, VaeEncoder


def _wav2vec2(settings: dict[str, Any]) -> nn.Module:
    from transformers import Wav2Vec2Config, Wav2Vec2Model  # takes seconds, and only this network needs it

    try:  # only the "sdpa" attention has a lowering
        return Wav2Vec2Model(Wav2Vec2Config(**(settings | {"attn_implementation": "sdpa"})))
    except Exception as error:  # settings are checked by use, so any exception may come of them
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"wav2vec2-base-960h/config.json is refused by transformers: {reason}: mend the file"
        ) from error


# An architecture can lack guiders: see `Architecture.guiders`.
NETWORKS: dict[str, Callable[[Architecture], nn.Module]] = {
    "reference_net": lambda a: ReferenceNet(a.unet),
    "denoising_unet": lambda a: DenoisingUNet(a.unet),
    "v_kps_guider": lambda a: Guider(a.guiders["keypoints"]),
    "depth_guider": lambda a: Guider(a.guiders["depth"]),
    "audio_projection": lambda a: AudioProjection(a.audio_projection),
    "vae_encoder": lambda a: VaeEncoder(a.vae),
    "vae_decoder": lambda a: VaeDecoder(a.vae),
    "audio_encoder": lambda a: _wav2vec2(a.wav2vec2),
}


def make_network(name: str, architecture: Architecture) -> nn.Module:
    """Make a network without weights.

    Args:
        name: A key of `NETWORKS`.
        architecture: The hyper-parameters.

    Returns:
        The module on the meta device, in evaluation mode.

    Raises:
        CheckpointError: transformers refuses the settings of wav2vec2.
    """
    with torch.device("meta"):
        return NETWORKS[name](architecture).eval()
