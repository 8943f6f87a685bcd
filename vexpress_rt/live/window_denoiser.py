"""A window of a live session: noise -> latents that go on from those given out before -> frames.

Frames that were given out are held as RePaint holds the known part of a picture (Lugmayr et al., arXiv 2201.09865,
equation 8a): in every step they are what is known, with noise of that step's level. So the window's other frames are
made to go with them.

That alone leaves a jump: at the first levels there is nothing but noise to see of the held frames, and what is decided
then, of a window's frames alike, is decided anew. But of held frames the right prediction is known, and so the error of
the model's. That of the last one is taken off the frames after it, less and less of it for `FADE` frames. It costs
nothing, and the step from one window to the next becomes what it is in exact mode. Over a whole window the lips would
follow the voice a little less, and without an end a mistake would go on from window to window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from vexpress_rt.backends.base import Engine, Tensor
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.diffusion.denoiser import Guidance
from vexpress_rt.diffusion.latent_check import check_latents
from vexpress_rt.diffusion.samplers import Sampler
from vexpress_rt.media.audio import frame_rows
from vexpress_rt.native.latent_step import guide, take_step
from vexpress_rt.stages.conditioning import encode_audio
from vexpress_rt.stages.frame_decoder import FramePath
from vexpress_rt.types import Float32, UInt8

FADE = 2  # frames: makes seams what they are in exact mode; 4 and 8 hide them, and cost lip sync (`benchmarks.live`)


def denoise_held(
    predict: Callable[[Float32, int], Float32], sampler: Sampler, noise: Float32, held: Float32,
    proceed: Callable[[], bool] = lambda: True,
) -> Float32 | None:  # fmt: skip
    """Noise (F, c, h, w) -> latents (F - n, c, h, w) of a window's new frames, in float32.

    predict: the guided prediction (F, c, h, w) for latents of that shape and the number of the step.
    held: (n, c, h, w), the latents of the first frames, final and not to be changed; n may be 0, but not F.
    proceed: asked before each step; False gives the window up, and None comes back.
    """
    vectors, count = [noise.copy(), *(np.zeros_like(noise) for _ in range(sampler.vectors - 1))], len(held)
    for step, coefficients in enumerate(sampler.coefficients):
        if not proceed():
            return None
        signal, share = (np.float32(part**0.5) for part in (sampler.alpha_bars[step], 1 - sampler.alpha_bars[step]))
        # What a sampler remembers of held frames besides is of no use to others, and not looked at again.
        vectors[0][:count] = signal * held + share * noise[:count]
        v = predict(vectors[0], step)
        if count:
            v = v - _fading(count, len(v)) * (v[count - 1] - (signal * noise[count - 1] - share * held[-1]))
        vectors = take_step(vectors, v, coefficients)
    return vectors[0][count:]


def _fading(held: int, frames: int) -> Float32:
    """How much of the last held frame's error is taken off each of a window's frames, (F, 1, 1, 1): 1 and then less."""
    distance = np.maximum(np.arange(frames) - (held - 1), 0)
    return np.maximum(1 - distance / (FADE + 1), 0).astype(np.float32)[:, None, None, None]


@dataclass(frozen=True)
class Heard:
    """What is heard around a window: normalised samples (n,) float32, of frames begin to end - 1."""

    samples: Float32
    begin: int
    end: int


@dataclass
class LiveStages:
    """What makes the windows of a session: engines, the portrait, and how they are used.

    engine: by its name.  reference: the portrait's engine inputs.
    noise: the initial latent (c, h, w) float32 of a frame.  draw: its drawing (H, W, 3) uint8.
    rows, minimum: of audio features a frame takes; samples that the audio encoder needs.
    path: what happens to frames between decoder and caller.  filtered: by the median.

    Frames are numbers of the session; those below 0 are the rest that it begins with.
    """

    engine: Callable[[str], Engine]
    guidance: Guidance
    sampler: Sampler
    reference: Mapping[str, Tensor]
    noise: Callable[[int], Float32]
    draw: Callable[[int], UInt8]
    rows: int
    minimum: int
    path: FramePath
    filtered: bool
    _decoded: list[tuple[Float32, Tensor]] = field(default_factory=list, init=False)
    _posed: tuple[UInt8, Mapping[str, Tensor]] | None = field(default=None, init=False)

    def denoise(
        self, window: Window, held: Float32, heard: Heard, proceed: Callable[[], bool] = lambda: True
    ) -> Float32 | None:
        """The latents of a window's frames but the held ones, as `denoise_held` has it.

        Raises BackendError, also for latents that are not finite or beyond `latent_check.LATENT_LIMIT`.
        """
        inputs = {**self.reference, **self.guidance.inputs(), **self._conditions(window, heard)}
        noise = np.stack([self.noise(frame) for frame in range(window.start, window.stop)])
        latents = denoise_held(self._predictor(inputs), self.sampler, noise, held, proceed)
        if latents is not None:
            first, frames = window.stop - len(latents), range(window.start, window.stop)
            check_latents(latents, first, inputs, self.noise, frames)
        return latents

    def _predictor(self, inputs: Mapping[str, Tensor]) -> Callable[[Float32, int], Float32]:
        """The guided prediction for a window's latents, which go through the host, in one step after the other."""
        plan = self.guidance.plan(len(self.sampler))
        kept: Float32 | None = None

        def predict(x: Float32, step: int) -> Float32:
            nonlocal kept
            timestep, part = np.array([self.sampler.timesteps[step]], np.float32), plan[step]
            outputs = self.engine(part.engine).run({**inputs, "latents": x, "timestep": timestep})
            unconditional = outputs["unconditional"] if part.computes else kept
            kept = unconditional if part.keeps else None
            conditional: Float32 = outputs["conditional"]
            return conditional if unconditional is None else guide(unconditional, conditional, self.guidance.scale)

        return predict

    def _conditions(self, window: Window, heard: Heard) -> Mapping[str, Tensor]:
        """The denoiser's `audio_tokens` (F, Q, D) and `pose_feature` (F, K, h, w), left where they are computed."""
        features = encode_audio(self.engine("audio_encoder"), heard.samples, self.minimum)
        start, stop = window.start - heard.begin, window.stop - heard.begin
        rows = frame_rows(features, heard.end - heard.begin, self.rows, start, stop)
        return {**self.engine("audio_projection").run({"feature_rows": rows}, resident=True), **self._pose(window)}

    def _pose(self, window: Window) -> Mapping[str, Tensor]:
        """The guider's answer to a window's drawings, which for a head that is held is always the same."""
        drawings = np.stack([self.draw(frame) for frame in range(window.start, window.stop)])
        if self._posed is None or not np.array_equal(self._posed[0], drawings):
            self._posed = drawings, self.engine("pose_guider").run({"drawings": drawings}, resident=True)
        return self._posed[1]

    def picture(self, before: Float32, latent: Float32, following: Float32 | None) -> UInt8:
        """The frame (H, W, 3) uint8 RGB of a latent (c, h, w) between its neighbours, filtered as it is asked for.

        following: None for the last one before an end: it stands in for it itself, which is nearer to what the filter
            gives elsewhere than the reflection at the end of a clip.
        """
        if self.filtered:
            previous, current = self._decode(before), self._decode(latent)
            after = current if following is None else self._decode(following)
            frame = self.path.median_3x3x3(previous, current, after)
        else:
            frame = self._decode(latent)
        (image,) = self.path.arrays([frame])
        return image

    def _decode(self, latent: Float32) -> Tensor:
        """A latent's picture, made once for as long as it may be a neighbour: the last three are kept."""
        for known, picture in self._decoded:
            if known is latent:
                return picture
        picture = self.engine("vae_decoder").run({"latent": latent[None]}, resident=self.path.resident)["frame"]
        self._decoded = [*self._decoded[-2:], (latent, picture)]
        return picture

    def forget(self) -> None:
        """Free what is kept for the next window."""
        self._decoded, self._posed = [], None
