"""Modules that pretrain the audio encoder and the audio projection: they predict the movement of a mouth."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from export.networks.audio_projection import AudioProjection
from export.pocket.architecture import POCKET
from vexpress_rt.stages.audio_features import normalize


class MouthFromSamples(nn.Module):
    """The audio encoder, and a linear layer to a mouth's openness, width and rounding that only training uses."""

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
        """Compute audio features.

        Args:
            clips: Normalized samples, (N, samples).

        Returns:
            (N, T, A).
        """
        found: Tensor = self.audio_encoder(clips).last_hidden_state
        return found

    def mouths(self, clips: Tensor, frames: int) -> Tensor:
        """Predict mouths.

        Args:
            clips: Normalized samples, (N, samples).
            frames: Number of video frames, evenly over a recording.

        Returns:
            Openness, width and rounding, (N, frames, 3).
        """
        features = F.interpolate(self.features(clips).transpose(1, 2), size=frames, mode="linear")
        found: Tensor = self.mouth(features.transpose(1, 2))
        return found

    def loss(self, clips: Tensor, mouths: Tensor) -> Tensor:
        """Compute the mean squared error of the prediction.

        Args:
            clips: Normalized samples, (N, samples).
            mouths: Openness, width and rounding, (N, frames, 3).
        """
        return F.mse_loss(self.mouths(clips, mouths.shape[1]), mouths)


class MouthFromTokens(nn.Module):
    """The audio projection, and a linear layer from its tokens to a mouth that only training uses.

    The denoiser soon attends to tokens that a mouth is a linear function of. Trained by the denoiser's loss alone, of
    which a mouth is a small part, the tokens carried almost no information after hundreds of steps.
    """

    def __init__(self) -> None:
        super().__init__()
        config = POCKET.audio_projection
        self.audio_projection = AudioProjection(config)
        nn.init.normal_(self.audio_projection.latents, std=0.5)
        self.mouth = nn.Linear(config.num_queries * config.output_dim, 3)

    def loss(self, rows: Tensor, mouths: Tensor) -> Tensor:
        """Compute the mean squared error of the prediction.

        Args:
            rows: Audio features of N frames, (N, R, A).
            mouths: Openness, width and rounding, (N, 3).
        """
        return F.mse_loss(self.mouth(self.audio_projection(rows).flatten(1)), mouths)


def normalized_recordings(clips: NDArray[np.float16]) -> Tensor:
    """Normalize recordings like the runtime: mean 0 and variance 1.

    Args:
        clips: (N, samples) float16.

    Returns:
        (N, samples) float32.
    """
    return torch.from_numpy(np.stack([normalize(samples.astype(np.float32)) for samples in clips]))
