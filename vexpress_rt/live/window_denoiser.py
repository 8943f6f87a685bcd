"""The denoising of a live session: noise -> latents of a window that continues the window before -> frames.

A window starts with frames whose latents are final, because they were generated in the window before. They are held
as RePaint holds the known part of an image (Lugmayr et al., arXiv 2201.09865, equation 8a): before every step their
latents are replaced by the final ones with noise of that step's level, so that the new frames fit to them.

Holding frames is not enough: at the first, noisiest levels the held frames are almost pure noise, and the model chooses
anew what the frames of a window have in common, so that the picture jumps at the first new frame. However, the true
prediction of a held frame is known, and with it the model's error. The error in the last held frame is subtracted from
the predictions of the frames after it, with weights that fall to 0 over `FADE` frames. The cost is negligible, and the
transition between windows becomes as smooth as in a video. A correction over the whole window would weaken lip sync,
and a correction that never fades would pass a mistake from window to window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from vexpress_rt.backends.base import Array, Engine, Tensor
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.latent_check import check_latents
from vexpress_rt.diffusion.latents import HostLatents, LatentRing, Latents, MakeLatents
from vexpress_rt.diffusion.samplers import Sampler
from vexpress_rt.diffusion.window_step import ActiveWindow, WindowStepper
from vexpress_rt.native.latent_step import Correction
from vexpress_rt.stages.audio_features import feature_windows
from vexpress_rt.stages.conditioning import encode_audio
from vexpress_rt.stages.frame_decoder import FramePostprocessing
from vexpress_rt.stages.spatial import SpatialFeatures
from vexpress_rt.types import Float32, UInt8

# Frames over which the correction fades. With 2, seams are as small as in a video; 4 and 8 hide them but weaken lip
# sync (measured by `benchmarks.live`).
FADE = 2


@dataclass(frozen=True, eq=False)
class HeldFrames:
    """The first frames of a window, which have final latents and must not change.

    Attributes:
        latents: Their final latents, (n, c, h, w) float32, n at least 1.
        noise: Their initial noise, (n, c, h, w) float32.
    """

    latents: Float32
    noise: Float32

    def at_level(self, alpha_bar: float) -> Float32:
        """Return the latents with noise of the level `alpha_bar`, (n, c, h, w) float32 (RePaint, equation 8a).

        Args:
            alpha_bar: The noise level, 0 (noise) to 1 (no noise).
        """
        signal, noise = _signal_and_noise(alpha_bar)
        return signal * self.latents + noise * self.noise

    def correction(self, alpha_bar: float, frames: int) -> Correction:
        """Return the correction for the predictions of a window of `frames` frames at the noise level `alpha_bar`.

        The true v-prediction of a held frame is alpha epsilon - sigma x.

        Args:
            alpha_bar: The noise level, 0 (noise) to 1 (no noise).
            frames: Number of frames of the window.
        """
        last = len(self.latents) - 1
        signal, noise = _signal_and_noise(alpha_bar)
        distance = np.maximum(np.arange(frames) - last, 0)
        weights = np.maximum(1 - distance / (FADE + 1), 0).astype(np.float32)
        return Correction(last, signal * self.noise[last] - noise * self.latents[last], weights)


def _signal_and_noise(alpha_bar: float) -> tuple[np.float32, np.float32]:
    """Return alpha and sigma, the factors of signal and noise."""
    return np.float32(alpha_bar**0.5), np.float32((1 - alpha_bar) ** 0.5)


@dataclass(frozen=True)
class AudioContext:
    """The speech around a window, as the audio encoder takes it.

    Attributes:
        samples: (n,) float32, normalised, at the model's rate.
        begin: First frame of the samples.
        end: Frame after their last frame.
    """

    samples: Float32
    begin: int
    end: int


@dataclass
class WindowDenoiser:
    """Denoises and decodes the windows of one live session, one after the other.

    Frames are numbered from the start of the session. Those below 0 are a window of silence before it.

    Attributes:
        get_engine: Returns an engine by its name.
        guidance: The strengths of the conditions.
        sampler: The sampler.
        reference: The portrait's engine inputs by name.
        noise: Returns the initial latent (c, h, w) float32 of a frame.
        spatial: Computes the pose feature of the guiders.
        audio_rows: Audio features in the feature window of one frame.
        minimum_samples: Minimum number of samples for the audio encoder.
        postprocessing: The operations on decoded frames.
        median_filter: Whether frames pass the median filter.
        latents: Makes the latent store, which is reused from window to window.
    """

    get_engine: Callable[[str], Engine]
    guidance: Guidance
    sampler: Sampler
    reference: Mapping[str, Tensor]
    noise: Callable[[int], Float32]
    spatial: SpatialFeatures
    audio_rows: int
    minimum_samples: int
    postprocessing: FramePostprocessing
    median_filter: bool
    latents: MakeLatents = HostLatents
    _store: Latents | None = field(default=None, init=False)
    _decoded: list[tuple[Float32, Tensor]] = field(default_factory=list, init=False)
    _posed: tuple[Mapping[str, Array], Mapping[str, Tensor]] | None = field(default=None, init=False)

    def denoise(
        self, window: Window, held: Float32, audio: AudioContext, proceed: Callable[[], bool] = lambda: True
    ) -> Float32 | None:
        """Denoise a window and return the latents of its new frames.

        Args:
            window: The F frames of the window.
            held: Final latents (n, c, h, w) float32 of its first n frames, 0 <= n < F.
            audio: The speech around the window.
            proceed: Called before each step; if it returns False, the window is abandoned.

        Returns:
            (F - n, c, h, w) float32, or None if the window was abandoned.

        Raises:
            BackendError: An engine or the GPU failed, or latents are not finite or beyond `LATENT_LIMIT`.
        """
        stepper = WindowStepper(self.get_engine, self.reference, self.guidance, self.sampler)
        noise = np.stack([self.noise(frame) for frame in range(window.start, window.stop)])
        active = ActiveWindow(Window(0, 0, len(noise)), self._conditions(window, audio))
        latents = self._denoise(stepper, active, noise, held, proceed)
        if latents is not None:
            first, frames = window.stop - len(latents), range(window.start, window.stop)
            check_latents(latents, first, {**stepper.inputs, **active.conditions}, self.noise, frames)
        return latents

    def _denoise(
        self, stepper: WindowStepper, active: ActiveWindow, noise: Float32, held: Float32, proceed: Callable[[], bool]
    ) -> Float32 | None:
        frames, count = len(noise), len(held)
        known = HeldFrames(held, noise[:count]) if count else None
        store = self._store or self._make_store(active.window, noise.shape[1:])
        self._store = None  # so that `forget` in another thread cannot close it
        with ExitStack() as stack:
            stack.callback(store.close)
            store.write(0, noise)
            for step, alpha_bar in enumerate(self.sampler.alpha_bars[:-1]):
                if not proceed():
                    return None
                correction = None
                if known is not None:
                    # The sampler state of held frames is not replaced: no other frame depends on it.
                    store.write(0, known.at_level(alpha_bar))
                    correction = known.correction(alpha_bar, frames)
                stepper.run(store, active, step, correction)
            latents = store.copy_to_host(count, frames)().copy()
            stack.pop_all()
            self._store = store
        return latents

    def _make_store(self, window: Window, shape: tuple[int, ...]) -> Latents:
        ring = LatentRing((window,), len(self.sampler))
        return self.latents(ring, shape, self.sampler.state_size)

    def _conditions(self, window: Window, audio: AudioContext) -> Mapping[str, Tensor]:
        """Return `audio_tokens` (F, Q, D) and `pose_feature` (F, K, h, w), kept on the device."""
        features = encode_audio(self.get_engine("audio_encoder"), audio.samples, self.minimum_samples)
        start, stop = window.start - audio.begin, window.stop - audio.begin
        windows = feature_windows(features, audio.end - audio.begin, self.audio_rows, start, stop)
        return {
            **self.get_engine("audio_projection").run({"feature_rows": windows}, keep_on_device=True),
            **self._pose_feature(window),
        }

    def _pose_feature(self, window: Window) -> Mapping[str, Tensor]:
        """Return the pose feature, cached for as long as the windows have the same keypoint maps and depth maps."""
        pictures, posed = self.spatial.pictures(range(window.start, window.stop)), self._posed
        if posed is None or not all(np.array_equal(posed[0][name], maps) for name, maps in pictures.items()):
            posed = self._posed = pictures, self.spatial(pictures)
        return posed[1]

    def decode(self, previous: Float32, current: Float32, following: Float32 | None) -> UInt8:
        """Decode a latent to a frame, and filter it with the median if `median_filter` is set.

        Args:
            previous: Latent (c, h, w) float32 of the frame before.
            current: Latent of the frame.
            following: Latent of the frame after; None at the end of the speech. The filter then takes the frame itself
                as its following frame: within a session this is closer to the next frame than the reflection that
                is used at the end of a clip.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        if self.median_filter:
            before, frame = self._decode(previous), self._decode(current)
            after = frame if following is None else self._decode(following)
            frame = self.postprocessing.median_3x3x3(before, frame, after)
        else:
            frame = self._decode(current)
        (image,) = self.postprocessing.arrays([frame])
        return image

    def _decode(self, latent: Float32) -> Tensor:
        """Decode a latent, or return its cached frame. Three frames are cached, for the median of their neighbours."""
        for cached, frame in self._decoded:
            if cached is latent:
                return frame
        decoder, keep_on_device = self.get_engine("vae_decoder"), self.postprocessing.keep_on_device
        frame = decoder.run({"latent": latent[None]}, keep_on_device=keep_on_device)["frame"]
        self._decoded = [*self._decoded[-2:], (latent, frame)]
        return frame

    def forget(self) -> None:
        """Free the latent store, and the pose feature and frames that are cached."""
        store, self._store = self._store, None
        self._decoded, self._posed = [], None
        if store is not None:
            store.close()
