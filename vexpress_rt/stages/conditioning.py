"""The denoiser's conditions: the photo once, speech and spatial signals for each window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vexpress_rt.backends.base import Array, Engine, Tensor
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.diffusion.latent_check import check_outputs
from vexpress_rt.stages.spatial import SpatialFeatures
from vexpress_rt.types import Float32, UInt8


def encode_portrait(vae_encoder: Engine, reference_net: Engine, image: UInt8) -> Mapping[str, Tensor]:
    """Encode a photo into the denoiser's reference keys and values (docs/model/specification.md, stages 1 and 2).

    They depend on the photo alone and stay on the device.

    Args:
        vae_encoder: The engine `vae_encoder`.
        reference_net: The engine `reference_net`.
        image: (H, W, 3) uint8 RGB, of the bundle's size.

    Returns:
        Keys and values of every attention site, by the name of the denoiser's input.

    Raises:
        BackendError: An engine failed, or its outputs on the host are not finite.
    """
    latent = vae_encoder.run({"image": image}, keep_on_device=True)
    check_outputs("vae_encoder", latent)
    reference = reference_net.run(latent, keep_on_device=True)
    check_outputs("reference_net", reference)
    return reference


def encode_audio(audio_encoder: Engine, samples: Float32, minimum: int) -> Float32:
    """Encode speech into audio features (docs/model/specification.md, stage 3).

    Args:
        audio_encoder: The engine `audio_encoder`.
        samples: (N,) float32, normalised, at the model's rate.
        minimum: Samples that the encoder's convolutions need; shorter speech is padded with zeros.

    Returns:
        (T, A) float32, about 50 a second.

    Raises:
        BackendError: The engine failed, or the features are not finite.
    """
    padded = np.pad(samples, (0, max(0, minimum - len(samples))))
    outputs = audio_encoder.run({"samples": padded[None]})
    check_outputs("audio_encoder", outputs)
    first: Float32 = outputs["features"][0]
    return first


@dataclass(frozen=True)
class WindowConditions:
    """Computes the denoiser's inputs for one window at a time, so that memory holds only those of windows in flight.

    Frames beyond the video repeat its last one.

    Attributes:
        audio_projection: The engine `audio_projection`.
        spatial: Computes the pose feature of the guiders.
        length: Frames of the video.
        feature_windows: Returns the feature windows (stop - start, R, A) float32 of frames [start, stop).
    """

    audio_projection: Engine
    spatial: SpatialFeatures
    length: int
    feature_windows: Callable[[int, int], Float32]

    def __call__(self, window: Window) -> Mapping[str, Tensor]:
        """Return `audio_tokens` (F, Q, D) and `pose_feature` (F, K, h, w) of the window, kept on the device."""
        stop, surplus = min(window.stop, self.length), max(0, window.stop - self.length)
        features = self.feature_windows(window.start, stop)
        pictures = self.spatial.pictures(range(window.start, stop))
        return {
            **self.audio_projection.run({"feature_rows": _extend(features, surplus)}, keep_on_device=True),
            **self.spatial({signal: _extend(frames, surplus) for signal, frames in pictures.items()}),
        }


def _extend(frames: Array, surplus: int) -> Array:
    """Repeat the last of `frames`, along the first axis, `surplus` times."""
    return np.concatenate([frames, np.repeat(frames[-1:], surplus, axis=0)]) if surplus else frames
