"""How long the first frame of a long clip takes to come, in the order that gives it early and in upstream's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from benchmarks.cpu.effort import Effort
from benchmarks.gpu.scene import RATE, Scene, draw_frames
from vexpress_rt.config import GenerationConfig
from vexpress_rt.generator import Generator
from vexpress_rt.records import Portrait


@pytest.fixture(scope="module")
def generator(threads: int) -> Iterator[Generator]:
    """Of the model that ships."""
    with Generator(provider="cpu", threads=threads) as made:
        yield made


def test_first_frame(beside: Callable[..., None], generator: Generator, effort: Effort) -> None:
    """From a photo that is prepared and speech until the first frame is there; PyTorch has no part in this."""
    settings = generator.bundle.manifest.settings(GenerationConfig(steps=effort.first_frame_steps))
    frames = round(effort.first_frame_seconds * settings.rate)
    scene = draw_frames(*generator.size, generator.bundle.manifest.shape.frames, frames, fps=int(settings.rate))
    portrait = generator.prepare(scene.photo, keypoints=scene.keypoints[0], crop="none")
    first_frame(generator, portrait, _start(scene), settings, "wavefront")  # the warm-up
    beside(
        lambda: first_frame(generator, portrait, scene, settings, "wavefront"),
        lambda: first_frame(generator, portrait, scene, settings, "breadth"),
        rounds=1,
        warmup=0,
        what=f"{effort.first_frame_seconds:g} s, {settings.steps} steps",
        steps=settings.steps,
        seconds=effort.first_frame_seconds,
    )


def first_frame(
    generator: Generator, portrait: Portrait, scene: Scene, config: GenerationConfig, schedule: str
) -> None:
    """Wait for the first frame, and take no more."""
    stream = generator.stream(
        portrait, (scene.speech, RATE), keypoints=scene.keypoints, config=config, schedule=schedule
    )
    with stream as frames:
        next(frames)


def _start(scene: Scene) -> Scene:
    """The first second of it."""
    return draw_frames(*scene.photo.shape[:2], scene.window, scene.fps, fps=scene.fps)
