"""A whole short video on the GPU against the one that the CPU makes in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.gpu.compare import PSNR_LEAST, psnr, worst_frame
from benchmarks.gpu.parts import CheckFailedError, Figures, Tell
from benchmarks.gpu.scene import draw_scene, facts, make_video
from vexpress_rt.generator import Generator

STEPS, WINDOWS = 4, 2


def check(options: Mapping[str, Any], tell: Tell) -> Figures:
    """The frames of two videos, one after another, against the CPU's. Options: {bundle, reference: folders; provider}.

    Raises CheckFailedError below PSNR_LEAST, and whatever `Generator` raises.
    """
    with Generator(options["reference"], provider="cpu") as generator:
        shape = generator.bundle.manifest.shape
        scene = draw_scene(shape.height, shape.width, shape.frames, WINDOWS)
        expected = make_video(generator, scene, STEPS).frames
    assert expected is not None
    figures: Figures = {**facts(scene, STEPS), "least_psnr": PSNR_LEAST, "psnr": [], "psnr_of_the_worst_frame": []}
    clips = []
    with Generator(options["bundle"], provider=options["provider"], rebuild="never") as generator:
        figures["describe"] = generator.describe()
        for _ in range(2):  # in the second, engines replay what they captured in the first
            video = make_video(generator, scene, STEPS)
            assert video.frames is not None
            clips.append(video.frames)
            figures["psnr"].append(psnr(video.frames, expected))
            figures["psnr_of_the_worst_frame"].append(worst_frame(video.frames, expected))
            tell(figures)
    figures["repeats_exactly"] = bool(np.array_equal(*clips))
    figures["grey_levels"] = len(np.unique(expected))
    tell(figures)
    if not min(figures["psnr"]) >= PSNR_LEAST:
        raise CheckFailedError(f"PSNR of {figures['psnr']} dB against the CPU; expected at least {PSNR_LEAST:.0f}")
    return figures
