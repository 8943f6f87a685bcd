"""What the denoiser is conditioned on: the photo once, the voice once, keypoints and tokens a window at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vexpress_rt.backends.base import Array, Engine, Tensor
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.diffusion.latent_check import check_outputs
from vexpress_rt.types import Float32, UInt8


def encode_portrait(vae_encoder: Engine, reference_net: Engine, image: UInt8) -> Mapping[str, Tensor]:
    """image: (H, W, 3) uint8 RGB of the bundle's size -> keys and values of every attention site, by input name.

    Spec, stages 1 and 2; they depend on the photo alone. They stay on the device that computes them. Raises
    BackendError, also for outputs on the host that are not finite.
    """
    latent = vae_encoder.run({"image": image}, keep_on_device=True)
    check_outputs("vae_encoder", latent)
    reference = reference_net.run(latent, keep_on_device=True)
    check_outputs("reference_net", reference)
    return reference


def encode_audio(audio_encoder: Engine, samples: Float32, minimum: int) -> Float32:
    """Normalised samples (N,) -> features (T, A) float32, about 50 a second (spec, stage 3).

    minimum: samples that the encoder's convolutions need; a shorter clip is continued with silence.
    Raises BackendError, also for features that are not finite.
    """
    padded = np.pad(samples, (0, max(0, minimum - len(samples))))
    outputs = audio_encoder.run({"samples": padded[None]})
    check_outputs("audio_encoder", outputs)
    first: Float32 = outputs["features"][0]
    return first


@dataclass(frozen=True)
class WindowConditions:
    """Makes the denoiser's inputs for a window, so that no more of them exist than windows are in flight.

    projection, guider: engines.  length: frames of the video.
    rows: feature rows (stop - start, R, A) float32 of frames [start, stop).
    draw: the drawing (H, W, 3) uint8 of a frame.
    Frames beyond the video repeat its last one.
    """

    projection: Engine
    guider: Engine
    length: int
    rows: Callable[[int, int], Float32]
    draw: Callable[[int], UInt8]

    def __call__(self, window: Window) -> Mapping[str, Tensor]:
        """`audio_tokens` (F, Q, D) and `pose_feature` (F, K, h, w) of the window's frames, left on the device."""
        stop, surplus = min(window.stop, self.length), max(0, window.stop - self.length)
        rows = self.rows(window.start, stop)
        drawings = np.stack([self.draw(frame) for frame in range(window.start, stop)])
        return {
            **self.projection.run({"feature_rows": _extend(rows, surplus)}, keep_on_device=True),
            **self.guider.run({"drawings": _extend(drawings, surplus)}, keep_on_device=True),
        }


def _extend(frames: Array, surplus: int) -> Array:
    """Repeat the last of `frames`, along the first axis, `surplus` times."""
    return np.concatenate([frames, np.repeat(frames[-1:], surplus, axis=0)]) if surplus else frames
