"""Classifier-free guidance: how predictions are combined, and in which steps which half of the denoiser runs."""

from __future__ import annotations

from dataclasses import dataclass

_ROUNDING = 1e-9  # of shares that are products of decimal fractions


@dataclass(frozen=True)
class GuidedPart:
    """What runs in a step.

    computes: both halves; else the conditional half alone, and if nothing is kept from the step before, no guidance.
    keeps: the unconditional prediction of this step, whether computed or kept until now, is kept for the next.
    """

    computes: bool
    keeps: bool = False

    @property
    def engine(self) -> str:
        """The engine that computes what is needed."""
        return "denoiser" if self.computes else "denoiser_cond"


def plan_guidance(
    steps: int, scale: float, interval: tuple[float, float] = (0, 1), every: int = 1
) -> tuple[GuidedPart, ...]:
    """What runs in each of `steps` steps.

    scale: of classifier-free guidance; at 1 or less no step is guided.
    interval: shares of the way from noise to picture, 0 <= low < high <= 1. A step is guided if its middle, (i + 1/2) /
        steps, lies between them or on one of them. In the others the conditional prediction is taken as it is:
        guidance harms at high noise levels and does next to nothing at low ones (Kynkaanniemi et al., arXiv
        2404.07724, who give the interval as noise levels; timesteps that are evenly spaced make it the same).
    every: of the guided steps the first, and each `every`-th after it, computes the unconditional half. Those between
        reuse what that gave for the same window. 1 computes it in all of them.
    """
    low, high = (bound * steps for bound in interval)
    guided = [i for i in range(steps) if scale > 1 and low - _ROUNDING <= i + 0.5 <= high + _ROUNDING]
    computing = set(guided[::every])
    reusing = set(guided) - computing
    return tuple(GuidedPart(computes=i in computing, keeps=i + 1 in reusing) for i in range(steps))
