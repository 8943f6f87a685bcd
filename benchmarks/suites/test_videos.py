"""Whole videos, from photo and speech to frames: the runtime, and the plain pipeline in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.cpu.effort import LONG, Effort
from benchmarks.cpu.runtimes import CPU, FAST, OPENVINO, PYTORCH
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
    measure_sides: Measure, sides: Sides, effort: Effort, model_name: str, length: float
) -> None:
    """The bundle's recommended settings, except for DDIM, the only sampler of the plain pipeline."""
    settings = sides.settings(sampler="ddim")
    scene = _scene(sides, round(length * settings.rate), settings)
    rounds = 1 if length > LONG else effort.video_rounds
    short = _scene(sides, sides.shape.frames, settings)
    facts = {"what": f"{length:g} s", "model": model_name, "length": length}
    _measure(measure_sides, sides, scene, dict.fromkeys(sides.names, settings), rounds, warm=short, **facts)


@pytest.mark.parametrize("model_name", ["half"], scope="session")
def test_video_of_one_window(measure_sides: Measure, sides: Sides, effort: Effort, model_name: str) -> None:
    """The half-width model with the published settings, upstream's 25 steps of DDIM, and with our preset `fast`."""
    settings, fast = sides.settings(steps=effort.half_steps, fps=25), sides.settings(preset="fast", fps=25)
    scene = _scene(sides, sides.shape.frames, settings)
    of = {**dict.fromkeys(sides.names, settings), FAST: fast}
    facts = {"what": f"{sides.shape.frames} frames of {sides.shape.height} x {sides.shape.width}", "model": model_name}
    _measure(measure_sides, sides, scene, of, effort.half_rounds, warm=scene, **facts)


def _measure(
    measure_sides: Measure, sides: Sides, scene: Scene, settings: Mapping[str, Settings], rounds: int, *, warm: Scene,
    **facts: object,
) -> None:  # fmt: skip
    """Measure alternating videos of all sides, after a video of `warm` in few steps.

    Args:
        measure_sides: The fixture.
        sides: The sides.
        scene: Inputs of the videos.
        settings: Settings of each side's videos. The frames of float32 sides with PyTorch's settings must agree.
        rounds: Number of turns.
        warm: Inputs of the first videos.
        **facts: More figures of the row.
    """
    videos: dict[str, list[Video]] = {name: [] for name in settings}
    for name in sides.names:
        sides.make(name, warm, sides.settings(steps=2, sampler="ddim", fps=settings[name].fps))

    def call(name: str) -> Callable[[], None]:
        side = CPU if name == FAST else name
        return lambda: videos[name].append(sides.make(side, scene, settings[name]))

    def details() -> dict[str, Any]:
        found: dict[str, dict[str, Any]] = {}
        for name, made in videos.items():
            found[name] = {
                "steps": settings[name].steps,
                "sampler": settings[name].sampler,
                "stages": median_stages([video.timings for video in made]),
            }
            if name != PYTORCH:
                found[name]["agreement"] = agreement(made[-1], videos[PYTORCH][-1])
                found[name]["precision"] = sides.precision(CPU if name == FAST else name)
        return found

    measure_sides(
        {name: call(name) for name in settings},
        rounds=rounds,
        warmup=0,
        details=details,
        frames=scene.frames,
        missing=sides.missing,
        **facts,
    )
    for name in {CPU, OPENVINO} & videos.keys():
        assert agreement(videos[name][-1], videos[PYTORCH][-1])["psnr"] >= PSNR_LEAST


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
