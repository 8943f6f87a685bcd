"""Sources of the videos: the exported engines, called as a user calls them, or drawings of the expected frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.pocket.evaluate.cases import Case
from export.pocket.lips import RATE
from vexpress_rt import GenerationConfig, Portrait, Video
from vexpress_rt.pipeline.generator import Generator

Frames = NDArray[np.uint8]  # (L, H, W, 3) RGB
VideoSource = Callable[[Case], Frames]  # makes the frames of a video


def draw_case(case: Case) -> Frames:
    """Draw the expected frames of a video.

    Args:
        case: The video.

    Returns:
        (L, H, W, 3) uint8 RGB.
    """
    return np.stack([case.subject.draw(pose).image for pose in case.poses])


class GeneratedVideos:
    """Videos of a generator. The portrait of a person is prepared once, from a photo with known keypoints."""

    def __init__(self, generator: Generator, config: GenerationConfig) -> None:
        """Set the generator.

        Args:
            generator: Makes the videos.
            config: Options; the case determines the seed.
        """
        self._generator, self._config = generator, config
        self._portrait: tuple[int, Portrait] | None = None

    def __call__(self, case: Case) -> Frames:
        """Make the frames of a video.

        Args:
            case: The video.

        Returns:
            (L, H, W, 3) uint8 RGB.

        Raises:
            VExpressError: See `Generator.generate`.
        """
        frames = self.video(case, self._config).frames
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
        keypoints, config = None if case.held else case.points, replace(config, seed=case.noise)
        return self._generator.generate(self._of(case), (case.samples, RATE), keypoints=keypoints, config=config)

    def _of(self, case: Case) -> Portrait:
        if self._portrait is None or self._portrait[0] != case.subject.seed:
            photo = case.subject.photo()
            self._portrait = case.subject.seed, self._generator.prepare(photo.image, keypoints=photo.keypoints)
        return self._portrait[1]
