"""Trains the audio encoder to hear what a mouth does: its features are then what the model takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from export.networks.audio_projection import AudioProjection
from export.pocket.architecture import POCKET
from vexpress_rt.media.audio import normalize


class Listener(nn.Module):
    """The encoder, and a projection to the mouth's three numbers that only training needs."""

    def __init__(self) -> None:
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        super().__init__()
        quiet = dict.fromkeys(
            ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop"), 0.0
        )
        settings: dict[str, Any] = {**POCKET.wav2vec2, **quiet, "mask_time_prob": 0.0, "attn_implementation": "sdpa"}
        self.audio_encoder = Wav2Vec2Model(Wav2Vec2Config(**settings))
        self.mouth = nn.Linear(POCKET.wav2vec2["hidden_size"], 3)

    def features(self, clips: Tensor) -> Tensor:
        """clips: (N, samples), normalised -> (N, T, A)."""
        found: Tensor = self.audio_encoder(clips).last_hidden_state
        return found

    def mouths(self, clips: Tensor, frames: int) -> Tensor:
        """(N, frames, 3): openness, width and rounding, evenly over the clips."""
        features = F.interpolate(self.features(clips).transpose(1, 2), size=frames, mode="linear")
        found: Tensor = self.mouth(features.transpose(1, 2))
        return found

    def loss(self, clips: Tensor, mouths: Tensor) -> Tensor:
        """mouths: (N, frames, 3)."""
        return F.mse_loss(self.mouths(clips, mouths.shape[1]), mouths)


class Interpreter(nn.Module):
    """The audio projection, and a reading of the mouth from its tokens that only training needs.

    Tokens that tell the mouth plainly are soon attended to; left to the denoiser's loss, of which a mouth is a small
    part, they told next to nothing after hundreds of steps.
    """

    def __init__(self) -> None:
        super().__init__()
        config = POCKET.audio_projection
        self.audio_projection = AudioProjection(config)
        nn.init.normal_(self.audio_projection.latents, std=0.5)
        self.mouth = nn.Linear(config.num_queries * config.output_dim, 3)

    def loss(self, rows: Tensor, mouths: Tensor) -> Tensor:
        """rows: (N, R, A), audio features.  mouths: (N, 3)."""
        return F.mse_loss(self.mouth(self.audio_projection(rows).flatten(1)), mouths)


def normalised(clips: NDArray[np.float16]) -> Tensor:
    """(N, samples), each of zero mean and unit variance, as the runtime gives them."""
    return torch.from_numpy(np.stack([normalize(samples.astype(np.float32)) for samples in clips]))
