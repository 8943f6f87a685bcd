"""Noise -> latents: steps over overlapping windows (spec, stages 7 to 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from vexpress_rt.backends import Engine, Tensor
from vexpress_rt.config import Settings
from vexpress_rt.latents import Flight, HostLatents, Latents, MakeLatents
from vexpress_rt.records import Float32
from vexpress_rt.schedule import Sampler
from vexpress_rt.windows import Window, final_frames, walk


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
    def of(cls, settings: Settings) -> Guidance:
        """As it is set."""
        return cls(settings.guidance_scale, settings.reference_attention_weight, settings.audio_attention_weight)

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

    def halves(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor]:
        """The engine's predictions (F, c, h, w): unconditional, where that is asked for, and conditional."""
        return outputs["unconditional"] if self.scale > 1 else None, outputs["conditional"]


@dataclass
class Denoiser:
    """Denoises a video.

    engine: `guidance.engine`, loaded.  static: its inputs that stay the same throughout. They and a window's inputs may
        be Residents of the engine's own place.
    windows: of `windows.plan_windows`.  length: frames of the video.
    noise: the initial latent (c, h, w) float32 of a frame; asked once for each frame, also for surplus ones of a video
        that is shorter than a window.
    conditions: a window's inputs; asked when the window starts, dropped when it ends.
    progress: called with the number of window-steps done (on a GPU: entered) and of all.
    latents: makes what keeps the latents; where they are on the engine's GPU, noise alone goes there.
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
    latents: MakeLatents = HostLatents

    def run(self, schedule: str = "wavefront") -> Iterator[tuple[int, Tensor]]:
        """Yield (frame, latent (1, c, h, w) float32) in order, each as soon as it is final.

        schedule: of `windows.walk`; the values do not depend on it. In wavefront order memory holds the frames of
        about as many windows as there are steps, in breadth order all. It is freed when the iterator ends or is closed.

        Raises BackendError, and whatever `noise`, `conditions` and `progress` raise.
        """
        flight = Flight(self.windows, len(self.sampler), schedule)
        with closing(self.latents(flight, self._latent_shape())) as latents:
            yield from self._walk(latents, schedule)

    def _walk(self, latents: Latents, schedule: str) -> Iterator[tuple[int, Tensor]]:
        final = final_frames(self.windows, self.length)
        static = {**self.static, **self.guidance.inputs()}
        active: dict[int, Mapping[str, Tensor]] = {}
        total, last, begun = len(self.windows) * len(self.sampler), len(self.sampler) - 1, 0
        for done, (window, step) in enumerate(walk(self.windows, len(self.sampler), schedule), start=1):
            if step == 0:
                latents.begin(begun, np.stack([self.noise(frame) for frame in range(begun, window.stop)]))
                begun = window.stop
                active[window.index] = self.conditions(window)
            self._step(latents, window, step, {**static, **active[window.index]})
            self.progress(done, total)
            if step == last:
                del active[window.index]
                for frame in final[window.index]:
                    yield frame, latents.take(frame)

    def _step(self, latents: Latents, window: Window, step: int, inputs: Mapping[str, Tensor]) -> None:
        timestep = np.array([self.sampler.timesteps[step]], np.float32)
        outputs = self.engine.run(
            {**inputs, "latents": latents.gather(window), "timestep": timestep}, resident=latents.resident
        )
        halves = self.guidance.halves(outputs)
        latents.step(window, *halves, self.guidance.scale, self.sampler.coefficients[step])

    def _latent_shape(self) -> tuple[int, ...]:
        """(c, h, w)."""
        (shape,) = (tensor.shape for tensor in self.engine.spec.inputs if tensor.name == "latents")
        return tuple(size or 0 for size in shape[1:])
