"""Sources of the videos: `generate`, a live session, or drawings of the expected frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.pocket.architecture import FPS
from export.pocket.evaluate.cases import Case
from export.pocket.evaluate.subjects import draw
from export.pocket.lips import RATE
from vexpress_rt import GenerationConfig, Portrait, Video
from vexpress_rt.pipeline.generator import Generator

Frames = NDArray[np.uint8]  # (L, H, W, 3) RGB
VideoSource = Callable[[Case], Frames]  # makes the frames of a video

# Settings of live mode in docs/streaming.md, for bundles that recommend none.
LIVE_OPTIONS: dict[str, Any] = {"steps": 4, "guidance_scale": 1.0}
CHUNK = RATE // FPS  # samples of a piece of speech that a live session receives


def draw_case(case: Case) -> Frames:
    """Draw the expected frames of a video.

    Args:
        case: The video.

    Returns:
        (L, H, W, 3) uint8 RGB.
    """
    return np.stack([draw(case.person, pose).image for pose in case.poses])


def _signals(case: Case) -> dict[str, Any]:
    """Return the arguments of a generator that drive the head."""
    return {
        "keypoints": case.points if case.signal == "keypoints" else None,
        "depth": case.depth() if case.signal == "depth" else None,
    }


class Portraits:
    """The portraits of a generator, from photos with known keypoints. That of the last person is kept."""

    def __init__(self, generator: Generator) -> None:
        """Set the generator.

        Args:
            generator: Prepares the portraits.
        """
        self.generator = generator
        self._last: tuple[int, Portrait] | None = None

    def of(self, case: Case) -> Portrait:
        """Return the portrait of a case's person.

        Args:
            case: The video.
        """
        if self._last is None or self._last[0] != case.subject.seed:
            photo = case.subject.photo()
            self._last = case.subject.seed, self.generator.prepare(photo.image, keypoints=photo.keypoints)
        return self._last[1]


@dataclass(frozen=True)
class GeneratedVideos:
    """Videos by `Generator.generate`.

    Attributes:
        portraits: The portraits of a generator.
        config: Options; the case determines the seed.
    """

    portraits: Portraits
    config: GenerationConfig

    def __call__(self, case: Case) -> Frames:
        """Make the frames of a video.

        Args:
            case: The video.

        Returns:
            (L, H, W, 3) uint8 RGB.

        Raises:
            VExpressError: See `Generator.generate`.
        """
        frames = self.video(case, self.config).frames
        assert frames is not None
        return frames

    def video(self, case: Case, config: GenerationConfig) -> Video:
        """Make a video with other options.

        Args:
            case: The video.
            config: Options; the case determines the seed.

        Raises:
            VExpressError: See `Generator.generate`.
        """
        portrait, config = self.portraits.of(case), replace(config, seed=case.noise)
        return self.portraits.generator.generate(portrait, (case.samples, RATE), config=config, **_signals(case))


@dataclass(frozen=True)
class LiveVideos:
    """Videos by a live session that receives the speech in chunks.

    Attributes:
        portraits: The portraits of a generator.
        config: Options; the case determines the seed.
    """

    portraits: Portraits
    config: GenerationConfig

    def __call__(self, case: Case) -> Frames:
        """Make the frames of a video.

        Args:
            case: The video.

        Returns:
            (L, H, W, 3) uint8 RGB.

        Raises:
            VExpressError: See `Generator.live`.
        """
        portrait, config = self.portraits.of(case), replace(self.config, seed=case.noise)
        frames: list[NDArray[np.uint8]] = []
        with self.portraits.generator.live(portrait, config=config, sample_rate=RATE, **_signals(case)) as session:
            for start in range(0, len(case.samples), CHUNK):
                session.push(case.samples[start : start + CHUNK])
                frames += [frame.image for frame in session.frames()]
            session.flush()
            frames += [frame.image for frame in session.frames()]
        return np.stack(frames)
