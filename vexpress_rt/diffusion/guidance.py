"""Classifier-free guidance: the strengths of the conditions, and which passes of the denoiser each step runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vexpress_rt.backends.base import Tensor
from vexpress_rt.config import Settings

_TOLERANCE = 1e-9  # for interval bounds times steps: bounds are decimal fractions, which floats round


@dataclass(frozen=True)
class GuidanceStep:
    """What the denoiser computes in one step.

    Attributes:
        run_uncond: Whether the unconditional pass runs beside the conditional one. Otherwise the step is guided by the
            cached unconditional prediction; without one, it is not guided.
        cache_uncond: Whether to keep the unconditional prediction, new or cached, for the next step.
    """

    run_uncond: bool
    cache_uncond: bool = False

    @property
    def engine(self) -> str:
        """Name of the engine that the step runs."""
        return "denoiser" if self.run_uncond else "denoiser_cond"


def plan_guidance(
    steps: int, scale: float, interval: tuple[float, float] = (0, 1), uncond_interval: int = 1
) -> tuple[GuidanceStep, ...]:
    """Return what the denoiser computes in each of `steps` steps.

    Args:
        steps: Number of steps.
        scale: Guidance scale; at 1 or less no step is guided.
        interval: Part of the steps that are guided, 0 (noise) <= low < high <= 1 (picture). Step i is guided if its
            middle, (i + 1/2) / steps, lies in the closed interval. The other steps use the conditional prediction:
            guidance harms at high noise levels and has little effect at low ones (Kynkaanniemi et al., arXiv
            2404.07724). The paper's interval is in noise levels; for evenly spaced timesteps the two are equivalent.
        uncond_interval: Run the unconditional pass in the first guided step and in every `uncond_interval`-th guided
            step after it. The guided steps in between reuse the prediction for the same window.
    """
    low, high = (bound * steps for bound in interval)
    guided = [i for i in range(steps) if scale > 1 and low - _TOLERANCE <= i + 0.5 <= high + _TOLERANCE]
    computing = set(guided[::uncond_interval])
    reusing = set(guided) - computing
    return tuple(GuidanceStep(run_uncond=i in computing, cache_uncond=i + 1 in reusing) for i in range(steps))


@dataclass(frozen=True)
class Guidance:
    """How strongly the denoiser follows each condition.

    Attributes:
        scale: Guidance scale; at 1 or less the conditional pass runs alone.
        reference_weight: Weight of the attention to the portrait.
        audio_weight: Weight of the attention to the speech.
        interval: Which steps are guided; see `plan_guidance`.
        uncond_interval: Which guided steps run the unconditional pass; see `plan_guidance`.
    """

    scale: float
    reference_weight: float
    audio_weight: float
    interval: tuple[float, float] = (0, 1)
    uncond_interval: int = 1

    @classmethod
    def from_settings(cls, settings: Settings) -> Guidance:
        """Return the guidance of the resolved options.

        Args:
            settings: The resolved options.
        """
        return cls(
            settings.guidance_scale,
            settings.reference_attention_weight,
            settings.audio_attention_weight,
            settings.guidance_interval,
            settings.uncond_interval,
        )

    def plan(self, steps: int) -> tuple[GuidanceStep, ...]:
        """Return what the denoiser computes in each of `steps` steps.

        Args:
            steps: Number of denoising steps.
        """
        return plan_guidance(steps, self.scale, self.interval, self.uncond_interval)

    def engines(self, steps: int) -> tuple[str, ...]:
        """Return the names of the engines that `steps` steps run.

        Args:
            steps: Number of denoising steps.
        """
        return tuple(dict.fromkeys(step.engine for step in self.plan(steps)))

    def inputs(self) -> dict[str, Tensor]:
        """Return the attention weights as inputs of the denoiser by name, each (1,) float32."""
        return {
            "reference_attention_weight": np.array([self.reference_weight], np.float32),
            "audio_attention_weight": np.array([self.audio_weight], np.float32),
        }
