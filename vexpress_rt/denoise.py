"""Noise -> latents: steps over overlapping windows (spec, stages 7 to 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.backends import Array, Engine, Tensor
from vexpress_rt.config import GenerationConfig
from vexpress_rt.records import Float32
from vexpress_rt.schedule import Sampler, guide
from vexpress_rt.windows import Window, coverage, final_frames, walk


@dataclass(frozen=True)
class Guidance:
    """How strongly each signal is followed.

    scale: of classifier-free guidance; at 1 or less the conditional half runs alone.
    reference_weight, audio_weight: of the two attentions.
    """

    scale: float
    reference_weight: float
    audio_weight: float

    @classmethod
    def of(cls, config: GenerationConfig) -> Guidance:
        """As a caller chose it."""
        return cls(config.guidance_scale, config.reference_attention_weight, config.audio_attention_weight)

    @property
    def engine(self) -> str:
        """The engine that computes what is needed."""
        return "denoiser" if self.scale > 1 else "denoiser_cond"

    def inputs(self) -> dict[str, Tensor]:
        """The engine's inputs."""
        return {
            "reference_attention_weight": np.array([self.reference_weight], np.float32),
            "audio_attention_weight": np.array([self.audio_weight], np.float32),
        }

    def apply(self, outputs: Mapping[str, Array]) -> Float32:
        """The engine's outputs -> the prediction (F, c, h, w)."""
        if self.scale > 1:
            return guide(outputs["unconditional"], outputs["conditional"], self.scale)
        return outputs["conditional"]


@dataclass
class _Frame:
    """A frame in flight: its latent (c, h, w), and the sum and number of this step's predictions so far."""

    latent: Float32
    total: Float32 | None = None
    heard: int = 0


@dataclass
class Denoiser:
    """Denoises a video.

    engine: `guidance.engine`, loaded.  static: its inputs that stay the same throughout. They and a window's inputs may
        be Residents of the engine's own place: then only latents go there, and predictions come back.
    windows: of `windows.plan_windows`.  length: frames of the video.
    noise: the initial latent (c, h, w) float32 of a frame; asked once for each frame, also for surplus ones of a video
        that is shorter than a window.
    conditions: a window's inputs; asked when the window starts, dropped when it ends.
    progress: called with the number of window-steps done and of all.
    """

    engine: Engine
    static: Mapping[str, Tensor]
    guidance: Guidance
    sampler: Sampler
    windows: Sequence[Window]
    length: int
    noise: Callable[[int], Float32]
    conditions: Callable[[Window], Mapping[str, Tensor]]
    progress: Callable[[int, int], None] = lambda done, total: None
    _flight: dict[int, _Frame] = field(init=False, repr=False, default_factory=dict)

    def run(self, schedule: str = "wavefront") -> Iterator[tuple[int, Float32]]:
        """Yield (frame, latent (c, h, w) float32) in order, each as soon as it is final.

        schedule: of `windows.walk`; the values do not depend on it. In wavefront order memory holds the frames of
        about as many windows as there are steps, in breadth order all.

        Raises BackendError, and whatever `noise`, `conditions` and `progress` raise.
        """
        self._flight.clear()
        cover = coverage(self.windows, max(self.length, self.windows[-1].stop))
        final = final_frames(self.windows, self.length)
        static = {**self.static, **self.guidance.inputs()}
        active: dict[int, Mapping[str, Tensor]] = {}
        total, last = len(self.windows) * len(self.sampler), len(self.sampler) - 1
        for done, (window, step) in enumerate(walk(self.windows, len(self.sampler), schedule), start=1):
            if step == 0:
                self._begin(window)
                active[window.index] = self.conditions(window)
            self._step(window, step, {**static, **active[window.index]}, cover)
            self.progress(done, total)
            if step == last:
                del active[window.index]
                for frame in final[window.index]:
                    yield frame, self._flight.pop(frame).latent

    def _begin(self, window: Window) -> None:
        for frame in range(window.start, window.stop):
            if frame not in self._flight:
                self._flight[frame] = _Frame(self.noise(frame))

    def _step(self, window: Window, step: int, inputs: Mapping[str, Tensor], cover: NDArray[np.int64]) -> None:
        frames = [self._flight[frame] for frame in range(window.start, window.stop)]
        outputs = self.engine.run(
            {
                **inputs,
                "latents": np.stack([frame.latent for frame in frames]),
                "timestep": np.array([self.sampler.timesteps[step]], np.float32),
            }
        )
        prediction = self.guidance.apply(outputs)  # (F, c, h, w)
        for index, frame in enumerate(frames):
            covering = int(cover[window.start + index])
            share = prediction[index] / np.float32(covering)
            frame.total = share if frame.total is None else frame.total + share
            frame.heard += 1
            if frame.heard == covering:
                frame.latent = self.sampler.step(step, frame.latent, frame.total)
                frame.total, frame.heard = None, 0
