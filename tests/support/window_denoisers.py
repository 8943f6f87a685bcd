"""Window denoisers of live sessions, with fake engines, and what their tests give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from tests.doubles.fakes import COMPUTE, SMALL, FakeEngine, fake_specs
from vexpress_rt.backends.base import Engine
from vexpress_rt.bundle.engine_spec import VideoShape
from vexpress_rt.diffusion.guidance import Guidance
from vexpress_rt.diffusion.noise import frame_noise
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod
from vexpress_rt.diffusion.samplers import ddim
from vexpress_rt.live.window_denoiser import AudioContext, WindowDenoiser
from vexpress_rt.stages.frame_decoder import HostFrames
from vexpress_rt.stages.spatial import SpatialFeatures, SpatialSignal

FRAMES = 6
STEPS = 4
Arrays = Mapping[str, np.ndarray]
SPECS = fake_specs(SMALL, VideoShape(16, 16, FRAMES))
LATENT = (SMALL.latent_channels, 2, 2)
ALPHAS = alphas_cumprod(SMALL.train_timesteps, SMALL.beta_start, SMALL.beta_end)
SAMPLER = ddim(STEPS, ALPHAS)
NOTHING = np.empty((0, 1, 1, 1), np.float32)  # no held frames
AUDIO = AudioContext(np.sin(np.arange(640 * 12, dtype=np.float32) / 9), 2, 14)
START = 4  # the first frame of the windows of the tests


def noise(frame: int) -> np.ndarray:
    return frame_noise(1, frame, LATENT)


def stacked(start: int, stop: int) -> np.ndarray:
    return np.stack([noise(frame) for frame in range(start, stop)])


@cache
def reference() -> dict[str, np.ndarray]:
    tensors = [t for t in SPECS["denoiser"].inputs if t.name.startswith("reference_") and "/" in t.name]
    return {t.name: np.full(t.shape, 0.1, np.float32) for t in tensors}


def number_maps(frame: int) -> np.ndarray:
    """Return a keypoint map that is filled with the number of its frame."""
    return np.full((16, 16, 3), frame, np.uint8)


def make_window_denoiser(
    compute: Mapping[str, Any] | None = None, *, keypoint_map: Callable[[int], np.ndarray] = number_maps, **changes: Any
) -> WindowDenoiser:
    """Return one with fake engines; `compute` replaces what the fakes of these names compute."""
    loaded: dict[str, Engine] = {}

    def engine(name: str) -> Engine:
        return loaded.setdefault(name, FakeEngine(SPECS[name], {**COMPUTE, **(compute or {})}[name]))

    values = {
        "get_engine": engine,
        "guidance": Guidance(2.0, 0.9, 2.5),
        "sampler": SAMPLER,
        "reference": reference(),
        "noise": noise,
        "spatial": SpatialFeatures(
            engine, [SpatialSignal("keypoints", 1.0, keypoint_map)], SPECS["pose_guider"].outputs[0]
        ),
        "audio_rows": SMALL.audio_rows,
        "minimum_samples": 400,
        "postprocessing": HostFrames(),
        "median_filter": True,
    }
    return WindowDenoiser(**(values | changes))
