"""Noise -> latents: steps over overlapping windows (spec, stages 7 to 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from vexpress_rt.backends.base import Engine, Tensor
from vexpress_rt.bundle.engine_spec import ModelConfig
from vexpress_rt.config import Settings
from vexpress_rt.diffusion.context_windows import Window, final_frames, walk
from vexpress_rt.diffusion.guidance import GuidedPart, plan_guidance
from vexpress_rt.diffusion.latent_check import check_latents
from vexpress_rt.diffusion.latents import Flight, HostLatents, Latents, MakeLatents
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod
from vexpress_rt.diffusion.samplers import Sampler, make_sampler
from vexpress_rt.types import Float32


@dataclass(frozen=True)
class Guidance:
    """How strongly each signal is followed.

    scale: of classifier-free guidance; at 1 or less the conditional half runs alone.
    reference_weight, audio_weight: of the two attentions.
    interval, every: in which steps there is guidance, and for which of them the unconditional half is computed: see
        `guidance.plan_guidance`.
    """

    scale: float
    reference_weight: float
    audio_weight: float
    interval: tuple[float, float] = (0, 1)
    every: int = 1

    @classmethod
    def of(cls, settings: Settings) -> Guidance:
        """As it is set."""
        return cls(
            settings.guidance_scale,
            settings.reference_attention_weight,
            settings.audio_attention_weight,
            settings.guidance_interval,
            settings.unconditional_every,
        )

    def plan(self, steps: int) -> tuple[GuidedPart, ...]:
        """What runs in each of so many steps."""
        return plan_guidance(steps, self.scale, self.interval, self.every)

    def engines(self, steps: int) -> tuple[str, ...]:
        """The engines that these need."""
        return tuple(dict.fromkeys(part.engine for part in self.plan(steps)))

    def inputs(self) -> dict[str, Tensor]:
        """The engine's inputs."""
        return {
            "reference_attention_weight": np.array([self.reference_weight], np.float32),
            "audio_attention_weight": np.array([self.audio_weight], np.float32),
        }


def choose_sampler(settings: Settings, model: ModelConfig) -> Sampler:
    """As it is set, for what the model was trained on. Raises ConfigError for more steps than that has timesteps."""
    alpha_bars = alphas_cumprod(model.train_timesteps, model.beta_start, model.beta_end)
    return make_sampler(settings.sampler, settings.steps, alpha_bars)


@dataclass
class _Active:
    """A window that has begun and not ended.

    conditions: its inputs.  unconditional: its last unconditional prediction, if the next step reuses that.
    """

    window: Window
    conditions: Mapping[str, Tensor]
    unconditional: Tensor | None = None


@dataclass
class Denoiser:
    """Denoises a video.

    engines: those of `guidance.engines` at least, loaded, all in one place.  static: their inputs that stay the same
        throughout. They and a window's inputs may be Residents of the engines' place.
    windows: of `windows.plan_windows`.  length: frames of the video.
    noise: the initial latent (c, h, w) float32 of a frame; asked once for each frame, also for surplus ones of a video
        that is shorter than a window.
    conditions: a window's inputs; asked when the window starts, dropped when it ends.
    progress: called with the number of window-steps done (on a GPU: entered) and of all.
    latents: makes what keeps the latents; where they are on the engines' GPU, noise alone goes there.
    """

    engines: Mapping[str, Engine]
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

        Raises BackendError, also for latents that are not finite or beyond `latent_check.LATENT_LIMIT`: before the
        first frame of their window, on a GPU before the second. Exceptions of `noise`, `conditions` and `progress` pass
        through.
        """
        flight = Flight(self.windows, len(self.sampler), schedule)
        with closing(self.latents(flight, self._latent_shape(), self.sampler.vectors)) as latents:
            yield from self._walk(latents, schedule)

    def _walk(self, latents: Latents, schedule: str) -> Iterator[tuple[int, Tensor]]:
        final = final_frames(self.windows, self.length)
        static = {**self.static, **self.guidance.inputs()}
        plan = self.guidance.plan(len(self.sampler))
        active: dict[int, _Active] = {}
        total, last, begun = len(self.windows) * len(self.sampler), len(self.sampler) - 1, 0
        for done, (window, step) in enumerate(walk(self.windows, len(self.sampler), schedule), start=1):
            if step == 0:
                latents.begin(begun, np.stack([self.noise(frame) for frame in range(begun, window.stop)]))
                begun = window.stop
                active[window.index] = _Active(window, self.conditions(window))
            self._step(latents, step, plan[step], static, active[window.index])
            self.progress(done, total)
            if step == last:
                index = window.index  # no local name keeps the conditions in memory
                yield from self._final(latents, final[index], {**static, **active.pop(index).conditions}, begun)

    def _final(
        self, latents: Latents, frames: range, inputs: Mapping[str, Tensor], begun: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the latents of final frames after checking them; release `inputs`, the denoiser's, after the check.

        On a GPU the check follows the first frame: by then the decoder's work is enqueued, so the GPU does not idle
        while the host waits.

        Args:
            begun: Number of frames that have begun, whose noise these latents may depend on.
        """
        copied = latents.copy_to_host(frames.start, frames.stop)
        for frame in frames:
            if frame == frames.start and not latents.resident:
                check_latents(copied(), frames.start, inputs, self.noise, range(frames.start, begun))
            yield frame, latents.take(frame)
            if frame == frames.start and latents.resident:
                check_latents(copied(), frames.start, inputs, self.noise, range(frames.start, begun))
            inputs = {}

    def _step(
        self, latents: Latents, step: int, part: GuidedPart, static: Mapping[str, Tensor], active: _Active
    ) -> None:
        window, timestep = active.window, np.array([self.sampler.timesteps[step]], np.float32)
        inputs = {**static, **active.conditions, "latents": latents.gather(window), "timestep": timestep}
        outputs = self.engines[part.engine].run(inputs, resident=latents.resident)
        unconditional = outputs["unconditional"] if part.computes else active.unconditional
        coefficients = self.sampler.coefficients[step]
        latents.step(window, unconditional, outputs["conditional"], self.guidance.scale, coefficients)
        active.unconditional = unconditional if part.keeps else None

    def _latent_shape(self) -> tuple[int, ...]:
        """(c, h, w)."""
        engine = self.engines[self.guidance.engines(len(self.sampler))[0]]
        (shape,) = (tensor.shape for tensor in engine.spec.inputs if tensor.name == "latents")
        return tuple(size or 0 for size in shape[1:])
