"""One denoising step of a window: latents -> denoiser -> guidance and sampler step, for videos and live sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vexpress_rt.backends.base import Array, Engine, Tensor
from vexpress_rt.bundle.engine_spec import TIMESTEP, TIMESTEP_SINES, EngineSpec
from vexpress_rt.bundle.timestep_sines import timestep_sines
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.latents import Latents
from vexpress_rt.diffusion.samplers import Sampler
from vexpress_rt.native.latent_step import Correction


@dataclass
class ActiveWindow:
    """A window between its first step and its last.

    Attributes:
        window: Its frames.
        conditions: The denoiser's inputs for these frames, by name.
        unconditional: The cached unconditional prediction; None if the next step does not reuse it.
    """

    window: Window
    conditions: Mapping[str, Tensor]
    unconditional: Tensor | None = None


class WindowStepper:
    """Runs the steps of windows with the same portrait, sampler and guidance.

    Latents and predictions stay on the device of the latent store: the engines' GPU or the host.
    """

    def __init__(
        self, get_engine: Callable[[str], Engine], static: Mapping[str, Tensor], guidance: Guidance, sampler: Sampler
    ) -> None:
        """Plan the steps; engines are fetched when a step runs.

        Args:
            get_engine: Returns an engine by its name.
            static: The denoiser's inputs that are the same for all windows, by name.
            guidance: The strengths of the conditions.
            sampler: The sampler.
        """
        self.inputs = {**static, **guidance.inputs()}
        self._get_engine = get_engine
        self._scale = guidance.scale
        self._sampler = sampler
        self._plan = guidance.plan(len(sampler))

    def run(self, latents: Latents, active: ActiveWindow, step: int, correction: Correction | None = None) -> None:
        """Run one step: call the denoiser with the window's latents, and update them with its prediction.

        Args:
            latents: The latent store with the window's frames.
            active: The window; its cached unconditional prediction is updated.
            step: Number of the step, from 0.
            correction: Corrects the guided predictions, if given.

        Raises:
            BackendError: The engine or the GPU failed.
        """
        planned = self._plan[step]
        engine = self._get_engine(planned.engine)
        level = _noise_level(engine.spec, self._sampler.timesteps[step])
        inputs = {**self.inputs, **active.conditions, **level, "latents": latents.gather(active.window)}
        outputs = engine.run(inputs, keep_on_device=latents.keep_on_device)
        unconditional = outputs["unconditional"] if planned.run_uncond else active.unconditional
        active.unconditional = unconditional if planned.cache_uncond else None
        conditional = outputs["conditional"]
        if correction is not None:
            conditional = latents.correct(unconditional, conditional, self._scale, correction)
            unconditional = None
        latents.step(active.window, unconditional, conditional, self._scale, self._sampler.coefficients[step])


def _noise_level(spec: EngineSpec, timestep: float) -> dict[str, Array]:
    """Return the denoiser's input for a timestep: its sinusoidal embedding if the engine takes that, else itself."""
    for tensor in spec.inputs:
        if tensor.name == TIMESTEP_SINES:
            size = tensor.shape[-1]
            assert size is not None  # see `engine_specs`
            return {TIMESTEP_SINES: timestep_sines(timestep, size)}
    return {TIMESTEP: np.array([timestep], np.float32)}
