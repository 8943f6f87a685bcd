"""Denoisers with stand-in engines, and plans and guidance to run them with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.doubles.fakes import SMALL, FakeEngine, fake_specs, predict
from vexpress_rt.bundle.engine_spec import EngineSpec, VideoShape
from vexpress_rt.diffusion.context_windows import Window, plan_windows
from vexpress_rt.diffusion.denoiser import Denoiser
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.noise import frame_noise
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod
from vexpress_rt.diffusion.samplers import ddim

LATENT = (SMALL.latent_channels, 2, 2)
Arrays = Mapping[str, np.ndarray]
ALPHAS = alphas_cumprod(SMALL.train_timesteps, SMALL.beta_start, SMALL.beta_end)


@cache
def specs(frames: int) -> dict[str, EngineSpec]:
    return fake_specs(SMALL, VideoShape(16, 16, frames))


@cache
def static_inputs(frames: int) -> dict[str, np.ndarray]:
    """Reference keys and values."""
    rng = np.random.default_rng(3)
    tensors = [t for t in specs(frames)["denoiser"].inputs if t.name.startswith("reference_") and "/" in t.name]
    return {t.name: rng.standard_normal(t.shape).astype(t.dtype) for t in tensors}


def window_inputs(window: Window) -> dict[str, np.ndarray]:
    """Tokens and pose features that depend on the frame."""
    shapes = {t.name: t.shape for t in specs(window.stop - window.start)["denoiser"].inputs}
    frames = range(window.start, window.stop)
    return {
        name: np.stack([frame_noise(seed, frame, shapes[name][1:]) for frame in frames])
        for seed, name in enumerate(["audio_tokens", "pose_feature"])
    }


def noise(frame: int) -> np.ndarray:
    return frame_noise(42, frame, LATENT)


def make_denoiser(
    length: int, frames: int, overlap: int, steps: int, guidance: Guidance | None = None, **changes: Any
) -> Denoiser:
    guidance = guidance or Guidance(3.5, 0.95, 3.0)
    values = {
        "engines": {name: FakeEngine(specs(frames)[name], predict) for name in guidance.engines(steps)},
        "static": static_inputs(frames),
        "guidance": guidance,
        "sampler": ddim(steps, ALPHAS),
        "windows": plan_windows(length, frames, overlap),
        "length": length,
        "noise": noise,
        "conditions": window_inputs,
    }
    return Denoiser(**(values | changes))


def calls(denoiser: Denoiser) -> list[dict[str, np.ndarray]]:
    """What its only engine was given so far."""
    (engine,) = denoiser.engines.values()
    return engine.calls  # type: ignore[attr-defined, no-any-return]


def run(denoiser: Denoiser, window_order: str = "wavefront") -> np.ndarray:
    frames, latents = zip(*denoiser.run(window_order), strict=True)
    assert frames == tuple(range(denoiser.length))
    return np.concatenate(latents)


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int]:
    """(length, frames, overlap): windows that overlap by anything from nothing to all frames but one."""
    frames = draw(st.integers(1, 6))
    overlap = draw(st.integers(0, frames - 1))
    windows = draw(st.integers(1, 5))
    length = frames + (windows - 1) * (frames - overlap) - draw(st.integers(0, frames - overlap))
    return max(length, 1), frames, overlap


GUIDANCES = st.builds(
    Guidance,
    scale=st.sampled_from([0.0, 1.0, 1.5, 3.5]),
    reference_weight=st.just(0.95),
    audio_weight=st.just(3.0),
    interval=st.sampled_from([(0, 1), (0.25, 1), (0, 0.75), (0.2, 0.6), (0.4, 0.41)]),
    uncond_interval=st.integers(1, 4),
)
