"""Compare a short video made on the GPU with the CPU's video in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.compare import PSNR_LEAST, psnr, worst_frame
from benchmarks.gpu.files import compare_file, fault
from benchmarks.gpu.parts import CheckFailedError, Figures, ReportFigures
from benchmarks.gpu.scene import Scene, draw_scene, facts, make_video
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.types import Video

STEPS, WINDOWS = 4, 2


def check(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Compare the frames of two videos in a row with the CPU's, and the file of a third with those frames.

    Args:
        options: {bundle, reference: folders; provider}.
        report: Called with the figures so far.

    Raises:
        CheckFailedError: The PSNR is below PSNR_LEAST, or the file has a `fault`.
        VExpressError: Any error of `Generator`.
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
        for _ in range(2):  # in the second video, engines replay the CUDA graphs of the first
            video = make_video(generator, scene, STEPS)
            assert video.frames is not None
            clips.append(video.frames)
            figures["psnr"].append(psnr(video.frames, expected))
            figures["psnr_of_the_worst_frame"].append(worst_frame(video.frames, expected))
            report(figures)
        figures["file"] = written(generator, scene, video)
    figures["repeats_exactly"] = bool(np.array_equal(*clips))
    figures["grey_levels"] = len(np.unique(expected))
    report(figures)
    if not min(figures["psnr"]) >= PSNR_LEAST:
        raise CheckFailedError(f"PSNR of {figures['psnr']} dB against the CPU; expected at least {PSNR_LEAST:.0f}")
    if why := fault(figures["file"]):
        raise CheckFailedError(why)
    return figures


def written(generator: Generator, scene: Scene, kept: Video) -> dict[str, float]:
    """Write the scene's video to a file, which a GPU encodes from NV12; return its `compare_file`."""
    with tempfile.TemporaryDirectory(prefix="video-") as folder:
        path = Path(folder) / "written.mp4"
        make_video(generator, scene, STEPS, path)
        return compare_file(path, kept, scene.config(STEPS))
