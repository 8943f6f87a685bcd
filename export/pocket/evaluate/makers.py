"""What makes the videos: the exported engines, as a user calls them, or the drawings that the model learned from."""

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
Maker = Callable[[Case], Frames]


def drawn(case: Case) -> Frames:
    """What the video should show: its figures are the best that can be reached."""
    return np.stack([case.subject.draw(pose).image for pose in case.poses])


class Generated:
    """Videos from a generator. A person's portrait is prepared once, from a photo whose keypoints are given.

    config: but the noise's seed, which is the case's.
    """

    def __init__(self, generator: Generator, config: GenerationConfig) -> None:
        self._generator, self._config = generator, config
        self._portrait: tuple[int, Portrait] | None = None

    def __call__(self, case: Case) -> Frames:
        """Raises what `Generator.generate` does."""
        frames = self.video(case, self._config).frames
        assert frames is not None
        return frames

    def video(self, case: Case, config: GenerationConfig) -> Video:
        """With other options. Raises what `Generator.generate` does."""
        keypoints, config = None if case.held else case.points, replace(config, seed=case.noise)
        return self._generator.generate(self._of(case), (case.samples, RATE), keypoints=keypoints, config=config)

    def _of(self, case: Case) -> Portrait:
        if self._portrait is None or self._portrait[0] != case.subject.seed:
            photo = case.subject.photo()
            self._portrait = case.subject.seed, self._generator.prepare(photo.image, keypoints=photo.keypoints)
        return self._portrait[1]
