"""The networks of a checkpoint as modules without weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from export.errors import CheckpointError
from export.networks.architecture import AUDIO_CONFIG, Architecture
from export.networks.audio_projection import AudioProjection
from export.networks.denoising_unet import DenoisingUNet
from export.networks.guider import Guider
from export.networks.reference_net import ReferenceNet
from export.networks.vae import VaeDecoder, VaeEncoder


def _wav2vec2(settings: dict[str, Any]) -> nn.Module:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    try:  # sdpa is the attention that has a lowering, whatever the settings ask for
        return Wav2Vec2Model(Wav2Vec2Config(**(settings | {"attn_implementation": "sdpa"})))
    except Exception as error:  # transformers checks by whatever it tries, and raises what comes of it
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{AUDIO_CONFIG} is refused by transformers: {reason}: mend the file") from error


NETWORKS: dict[str, Callable[[Architecture], nn.Module]] = {
    "reference_net": lambda a: ReferenceNet(a.unet),
    "denoising_unet": lambda a: DenoisingUNet(a.unet),
    "v_kps_guider": lambda a: Guider(a.guider),
    "audio_projection": lambda a: AudioProjection(a.audio_projection),
    "vae_encoder": lambda a: VaeEncoder(a.vae),
    "vae_decoder": lambda a: VaeDecoder(a.vae),
    "audio_encoder": lambda a: _wav2vec2(a.wav2vec2),
}


def empty(name: str, architecture: Architecture) -> nn.Module:
    """The network `name` (of NETWORKS) on the meta device, in evaluation mode.

    Raises CheckpointError for a wav2vec2 configuration that transformers refuses.
    """
    with torch.device("meta"):
        return NETWORKS[name](architecture).eval()
