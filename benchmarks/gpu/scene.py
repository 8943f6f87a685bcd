"""Synthetic inputs of videos: a drawn photo, speech of tones and noise, and a moving face."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vexpress_rt.config import GenerationConfig, Settings
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.types import Float32, UInt8, Video

RATE = 16000  # Hz
FPS = 30
OVERLAP = 4  # largest number of frames that neighbouring windows share; short windows share a quarter


@dataclass(frozen=True)
class Scene:
    """Inputs of a video of `frames` frames.

    Attributes:
        photo: (H, W, 3) uint8 RGB, of the bundle's size.
        speech: (N,) float32 at RATE.
        keypoints: (frames, 3, 2) float32, pixels of the photo: left eye, right eye, nose.
        window: Frames of a window.
        fps: Frames a second of the video.
    """

    photo: UInt8
    speech: Float32
    keypoints: Float32
    window: int
    fps: int = FPS

    @property
    def frames(self) -> int:
        """Number of frames of the video."""
        return len(self.keypoints)

    def config(self, steps: int) -> Settings:
        """Return the published settings with another number of steps."""
        return Settings(steps=steps, fps=self.fps, overlap=min(OVERLAP, self.window // 4))


def draw_scene(height: int, width: int, window: int, windows: int, seed: int = 0) -> Scene:
    """Return a scene as long as `windows` overlapping windows."""
    overlap = min(OVERLAP, window // 4)
    return draw_frames(height, width, window, windows * window - (windows - 1) * overlap, seed=seed)


def draw_frames(height: int, width: int, window: int, frames: int, *, fps: int = FPS, seed: int = 0) -> Scene:
    """Return a scene of `frames` frames."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    face = np.exp(-(((rows - 0.5) / 0.25) ** 2 + ((columns - 0.5) / 0.18) ** 2))[..., None]
    colours = np.array([60, 80, 120]) * (1 - face) + np.array([225, 175, 145]) * face
    photo = np.clip(colours + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)
    time = np.arange(frames * RATE // fps) / RATE
    tones = sum(np.sin(2 * np.pi * f * time) for f in (140, 420, 1260)) / 6 + rng.normal(0, 0.05, time.shape)
    speech = (tones * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)
    still = np.array([[0.4, 0.43], [0.6, 0.43], [0.5, 0.55]]) * [width, height]
    sway = np.stack([np.sin(np.arange(frames) / 7), np.cos(np.arange(frames) / 5)], axis=1)[:, None]
    keypoints = (still + sway * [0.03 * width, 0.02 * height]).astype(np.float32)
    return Scene(photo, speech, keypoints, window, fps)


def make_video(
    generator: Generator, scene: Scene, steps: int, output: Path | None = None, config: GenerationConfig | None = None
) -> Video:
    """Make the video of a scene.

    Args:
        generator: Generator of the bundle.
        scene: Photo, speech and keypoints.
        steps: Denoising steps.
        output: File to write; None keeps the frames.
        config: Settings instead of the published ones with `steps` steps.
    """
    portrait = generator.prepare(scene.photo, keypoints=scene.keypoints[0], crop="none")
    return generator.generate(
        portrait, (scene.speech, RATE), keypoints=scene.keypoints, retarget="no_retarget",
        config=config or scene.config(steps), output=output,
    )  # fmt: skip


def facts(scene: Scene, steps: int) -> dict[str, Any]:
    """Return the size of a video for its figures."""
    height, width = scene.photo.shape[:2]
    seconds = float(Fraction(scene.frames, scene.fps))
    return {"height": height, "width": width, "frames": scene.frames, "steps": steps, "seconds_of_video": seconds}
