"""Which passes of the denoiser each step runs, and what is kept between steps."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from tests.doubles.fakes import FakeEngine, predict
from tests.support.denoisers import Arrays, make_denoiser, run, specs
from vexpress_rt.bundle.engine_spec import EngineSpec
from vexpress_rt.config import WINDOW_ORDERS, Settings
from vexpress_rt.diffusion.guidance import Guidance


@pytest.mark.parametrize(("scale", "engine"), [(3.5, "denoiser"), (1.01, "denoiser"), (1, "denoiser_cond"),
                                               (0, "denoiser_cond")])  # fmt: skip
def test_guidance_of_at_most_one_takes_the_conditional_half_alone(scale: float, engine: str) -> None:
    config = Settings(guidance_scale=scale, reference_attention_weight=0.9, audio_attention_weight=2.5)
    assert Guidance.from_settings(config) == Guidance(scale, 0.9, 2.5)
    assert Guidance.from_settings(config).engines(25) == (engine,)


def test_guidance_is_as_it_is_set() -> None:
    config = Settings(guidance_scale=2, guidance_interval=(0.25, 0.5), uncond_interval=3)
    assert Guidance.from_settings(config) == Guidance(2, 0.95, 3.0, (0.25, 0.5), 3)
    assert Guidance.from_settings(config).engines(4) == ("denoiser_cond", "denoiser")


@pytest.mark.parametrize("order", WINDOW_ORDERS)
def test_each_half_runs_where_it_is_planned_and_no_oftener(order: str) -> None:
    guidance = Guidance(3.5, 0.95, 3.0, interval=(0.2, 0.8), uncond_interval=2)
    denoiser = make_denoiser(length=10, frames=4, overlap=1, steps=8, guidance=guidance)
    run(denoiser, order)
    told = {
        name: sorted(int(call["timestep"][0]) for call in engine.calls) for name, engine in denoiser.engines.items()
    }  # type: ignore[attr-defined]
    guided = [t for step, t in enumerate(denoiser.sampler.timesteps) if step in (2, 4)]  # of 2, 3, 4, 5
    assert told["denoiser"] == sorted(guided * 3)
    assert told["denoiser_cond"] == sorted([t for t in denoiser.sampler.timesteps if t not in guided] * 3)


def test_a_prediction_that_is_reused_is_kept_no_longer_than_that() -> None:
    predictions: list[weakref.ref[np.ndarray]] = []

    def watched(spec: EngineSpec, inputs: Arrays) -> dict[str, np.ndarray]:
        outputs = predict(spec, inputs)
        predictions.append(weakref.ref(outputs["unconditional"]))
        return outputs

    def progress(done: int, total: int) -> None:
        alive.append(sum(prediction() is not None for prediction in predictions))

    alive: list[int] = []
    guidance = Guidance(
        3.5, 0.95, 3.0, interval=(0, 0.75), uncond_interval=2
    )  # of 4 steps: computed, reused, computed, without
    engines = {"denoiser": FakeEngine(specs(4)["denoiser"], watched),
               "denoiser_cond": FakeEngine(specs(4)["denoiser_cond"], predict)}  # fmt: skip
    run(make_denoiser(length=4, frames=4, overlap=0, steps=4, guidance=guidance, engines=engines, progress=progress))
    assert alive == [1, 0, 0, 0]
