"""The denoising loop of a video: noise -> latents, in steps over overlapping windows.

Source: docs/model/specification.md, stages 7 to 9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from vexpress_rt.backends.base import Engine, Tensor
from vexpress_rt.bundle.engine_spec import ModelConfig
from vexpress_rt.config import Settings
from vexpress_rt.diffusion.context_windows import Window, final_frames, walk
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.latent_check import check_latents
from vexpress_rt.diffusion.latents import HostLatents, LatentRing, Latents, MakeLatents
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod
from vexpress_rt.diffusion.samplers import Sampler, make_sampler
from vexpress_rt.diffusion.window_step import ActiveWindow, WindowStepper
from vexpress_rt.types import Float32


def choose_sampler(settings: Settings, model: ModelConfig) -> Sampler:
    """Return the sampler that the settings name, for the model's noise schedule.

    Args:
        settings: The resolved options.
        model: The model, with its training timesteps and noise schedule.

    Raises:
        ConfigError: There are more steps than training timesteps.
    """
    alpha_bars = alphas_cumprod(model.train_timesteps, model.beta_start, model.beta_end)
    return make_sampler(settings.sampler, settings.steps, alpha_bars)


@dataclass
class Denoiser:
    """Denoises a video.

    Attributes:
        engines: The engines of `guidance.engines` by name, all on one device.
        static: The denoiser's inputs that are the same for the whole video, by name. These and a window's inputs may
            be DeviceTensors of the engines' device.
        guidance: The strengths of the conditions.
        sampler: The sampler.
        windows: The windows, from `plan_windows`.
        length: Frames of the video.
        noise: Returns the initial latent (c, h, w) float32 of a frame. It is called once for each frame, also for the
            surplus frames of a video that is shorter than a window.
        conditions: Returns a window's inputs by name. It is called when the window begins; the inputs are dropped when
            the window ends.
        progress: Called with the number of window-steps done (on a GPU: enqueued) and the total.
        latents: Makes the latent store. If the store is on the engines' GPU, only the noise is copied there.
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

    def run(self, window_order: str = "wavefront") -> Iterator[tuple[int, Tensor]]:
        """Yield (frame, latent (1, c, h, w) float32) in order, each as soon as it is final.

        In wavefront order, memory holds the frames of about as many windows as there are steps; in step-major order,
        all frames. Memory is freed when the iterator ends or is closed. Exceptions of `noise`, `conditions` and
        `progress` pass through.

        Args:
            window_order: An order of `context_windows.walk`; the values do not depend on it.

        Raises:
            BackendError: An engine or the GPU failed, or latents are not finite or beyond `LATENT_LIMIT`. Latents are
                checked before the first frame of their window is yielded, on a GPU before the second.
        """
        ring = LatentRing(self.windows, len(self.sampler), window_order)
        with closing(self.latents(ring, self._latent_shape(), self.sampler.state_size)) as latents:
            yield from self._run(latents, window_order)

    def _run(self, latents: Latents, window_order: str) -> Iterator[tuple[int, Tensor]]:
        stepper = WindowStepper(self.engines.__getitem__, self.static, self.guidance, self.sampler)
        final = final_frames(self.windows, self.length)
        active: dict[int, ActiveWindow] = {}
        total, last, begun = len(self.windows) * len(self.sampler), len(self.sampler) - 1, 0
        for done, (window, step) in enumerate(walk(self.windows, len(self.sampler), window_order), start=1):
            if step == 0:
                latents.write(begun, np.stack([self.noise(frame) for frame in range(begun, window.stop)]))
                begun = window.stop
                active[window.index] = ActiveWindow(window, self.conditions(window))
            stepper.run(latents, active[window.index], step)
            self.progress(done, total)
            if step == last:
                # The popped window gets no name here, which would keep its conditions in memory.
                index = window.index
                yield from self._final(latents, final[index], {**stepper.inputs, **active.pop(index).conditions}, begun)

    def _final(
        self, latents: Latents, frames: range, inputs: Mapping[str, Tensor], begun: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the latents of final frames, and check them; release the denoiser's `inputs` after the check.

        On a GPU the check follows the first frame: by then the decoder's work is enqueued, so the GPU does not idle
        while the host waits.

        Args:
            latents: The latent store.
            frames: The final frames.
            inputs: The denoiser's other inputs, for `check_latents`.
            begun: Number of frames that have begun. These latents may depend on the noise of all of them.
        """
        copied = latents.copy_to_host(frames.start, frames.stop)
        for frame in frames:
            if frame == frames.start and not latents.keep_on_device:
                check_latents(copied(), frames.start, inputs, self.noise, range(frames.start, begun))
            yield frame, latents.take(frame)
            if frame == frames.start and latents.keep_on_device:
                check_latents(copied(), frames.start, inputs, self.noise, range(frames.start, begun))
            inputs = {}

    def _latent_shape(self) -> tuple[int, ...]:
        """Return the shape (c, h, w) of a frame's latent."""
        engine = self.engines[self.guidance.engines(len(self.sampler))[0]]
        (shape,) = (tensor.shape for tensor in engine.spec.inputs if tensor.name == "latents")
        return tuple(size or 0 for size in shape[1:])
