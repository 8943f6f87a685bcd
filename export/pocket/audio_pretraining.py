"""Modules for pretraining the audio encoder and the audio projection: they predict the movement of a mouth."""

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
    """The audio encoder with a linear layer, used only in training, to openness, width and rounding of a mouth."""

    def __init__(self) -> None:
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        super().__init__()
        no_dropout = dict.fromkeys(
            ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop"), 0.0
        )
        settings: dict[str, Any] = {
            **POCKET.wav2vec2,
            **no_dropout,
            "mask_time_prob": 0.0,
            "attn_implementation": "sdpa",
        }
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
    """The audio projection with a linear layer, used only in training, from its tokens to a mouth.

    The denoiser soon attends to tokens from which a linear layer can predict the mouth. Trained by the denoiser's loss
    alone, in which the mouth counts for little, the tokens carried almost no information after hundreds of steps.
    """

    def __init__(self) -> None:
        super().__init__()
        config = POCKET.audio_projection
        self.audio_projection = AudioProjection(config)
        nn.init.normal_(self.audio_projection.latents, std=0.5)
        self.mouth = nn.Linear(config.num_queries * config.output_dim, 3)

    def loss(self, windows: Tensor, mouths: Tensor) -> Tensor:
        """Compute the mean squared error of the prediction.

        Args:
            windows: Feature windows of N frames, (N, R, A).
            mouths: Openness, width and rounding, (N, 3).
        """
        return F.mse_loss(self.mouth(self.audio_projection(windows).flatten(1)), mouths)


def normalized_recordings(clips: NDArray[np.float16]) -> Tensor:
    """Normalize recordings like the runtime: mean 0 and variance 1.

    Args:
        clips: (N, samples) float16.

    Returns:
        (N, samples) float32.
    """
    return torch.from_numpy(np.stack([normalize(samples.astype(np.float32)) for samples in clips]))
