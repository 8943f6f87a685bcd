"""Whole videos, from photo and speech to frames, compared with the plain pipeline in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.cpu.effort import LONG, Effort
from benchmarks.gpu.compare import PSNR_LEAST, psnr
from benchmarks.gpu.scene import Scene, draw_frames
from benchmarks.gpu.timings import median_stages
from vexpress_rt.config import Settings
from vexpress_rt.types import Video

if TYPE_CHECKING:
    from benchmarks.cpu.sides import Sides

Measure = Callable[..., None]


@pytest.mark.parametrize("model_name", ["pocket"], scope="session")
def test_video_of_the_small_model(
    measure_pair: Measure, sides: Sides, effort: Effort, model_name: str, length: float
) -> None:
    """The bundle's recommended settings, except for DDIM, the only sampler of the plain pipeline."""
    settings = sides.settings(sampler="ddim")
    scene = _scene(sides, round(length * settings.rate), settings)
    rounds = 1 if length > LONG else effort.video_rounds
    short = _scene(sides, sides.shape.frames, settings)
    facts = {"what": f"{length:g} s", "model": model_name, "length": length}
    _measure(measure_pair, sides, scene, settings, rounds, warm=short, **facts)


@pytest.mark.parametrize("model_name", ["half"], scope="session")
def test_video_of_one_window(measure_pair: Measure, sides: Sides, effort: Effort, model_name: str) -> None:
    """The half-width model with the published settings: upstream's 25 steps of DDIM."""
    settings = sides.settings(steps=effort.half_steps, fps=25)
    scene = _scene(sides, sides.shape.frames, settings)
    what = f"{sides.shape.frames} frames of {sides.shape.height} x {sides.shape.width}, {settings.steps} steps"
    _measure(measure_pair, sides, scene, settings, effort.video_rounds, warm=scene, what=what, model=model_name)


@pytest.mark.parametrize("model_name", ["half"], scope="session")
def test_fast_video_of_one_window(measure_pair: Measure, sides: Sides, effort: Effort, model_name: str) -> None:
    """Our preset `fast` against PyTorch with the published settings; the quality table shows how the frames differ."""
    published = sides.settings(steps=effort.half_steps, sampler="ddim", fps=25)
    scene = _scene(sides, sides.shape.frames, published)
    what = f"{sides.shape.frames} frames of {sides.shape.height} x {sides.shape.width}, `fast`"
    fast = sides.settings(preset="fast", fps=25)
    facts = {"what": what, "model": model_name}
    _measure(measure_pair, sides, scene, fast, effort.video_rounds, warm=scene, theirs=published, **facts)


def _measure(
    measure_pair: Measure, sides: Sides, scene: Scene, settings: Settings, rounds: int, *, warm: Scene,
    theirs: Settings | None = None, **facts: object,
) -> None:  # fmt: skip
    """Measure alternating videos of both sides, after a video of `warm` in few steps.

    With None for `theirs`, the settings of PyTorch's videos, both sides have the same settings, and their frames must
    agree.
    """
    made, by_torch = list[Video](), list[Video]()
    few = sides.settings(steps=2, sampler="ddim", fps=settings.fps)
    sides.make(warm, few)
    sides.make_in_torch(warm, few)
    measure_pair(
        lambda: made.append(sides.make(scene, settings)),
        lambda: by_torch.append(sides.make_in_torch(scene, theirs or settings)),
        rounds=rounds,
        warmup=0,
        steps=settings.steps,
        frames=scene.frames,
        stages=lambda: {
            "ours": median_stages([v.timings for v in made]),
            "theirs": median_stages([v.timings for v in by_torch]),
        },
        agreement=lambda: agreement(made[-1], by_torch[-1]),
        **facts,
    )  # fmt: skip
    if theirs is None:
        assert agreement(made[-1], by_torch[-1])["psnr"] >= PSNR_LEAST


def agreement(one: Video, other: Video) -> dict[str, float]:
    """Compare two videos: the share of equal bytes, the largest difference (0 to 255), and the PSNR in dB."""
    assert one.frames is not None
    assert other.frames is not None
    apart = np.abs(one.frames.astype(np.int16) - other.frames)
    return {
        "equal": float((apart == 0).mean()), "largest": int(apart.max()), "psnr": psnr(one.frames, other.frames),
    }  # fmt: skip


def _scene(sides: Sides, frames: int, settings: Settings) -> Scene:
    shape = sides.shape
    assert settings.rate.denominator == 1
    return draw_frames(shape.height, shape.width, shape.frames, frames, fps=int(settings.rate))
