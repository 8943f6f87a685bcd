"""`vexpress-rt generate`: make a video."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vexpress_rt.cli.bundle_option import bundle_folder
from vexpress_rt.cli.progress import CommandProgress
from vexpress_rt.cli.terminal import duration, open_stream
from vexpress_rt.config import OPTION_NAMES, GenerationConfig
from vexpress_rt.errors import ConfigError, InputError, OutputError
from vexpress_rt.utils.memory_errors import check_limit
from vexpress_rt.utils.paths import same_file
from vexpress_rt.utils.signals import GracefulShutdown

if TYPE_CHECKING:
    from vexpress_rt.pipeline.generator import Generator
    from vexpress_rt.types import KeypointTrack, Video

_REPAIRS = ("photo:", "audio:", "driving video:", "depth video:")  # prefixes of notes on repairs and omissions


def run_generate(options: argparse.Namespace, shutdown: GracefulShutdown) -> str:
    """Generate the video.

    Args:
        options: The parsed flags.
        shutdown: Checked between steps.

    Returns:
        The text to print; empty with --quiet.

    Raises:
        VExpressError: As `Generator.generate` does.
    """
    config = GenerationConfig(**{name: getattr(options, name) for name in OPTION_NAMES})
    _check_files(options)
    bundle = bundle_folder(options.engines, quiet=options.quiet)
    with CommandProgress(open_stream(sys.stderr), quiet=options.quiet) as progress:
        progress.show("loading libraries and bundle")
        check_limit()
        from vexpress_rt.pipeline.generator import Generator

        def report(stage: str, done: int, total: int) -> None:
            shutdown.check()
            progress(stage, done, total)

        with Generator(
            bundle, provider=options.provider, device=options.device, precision=options.precision,
            threads=options.threads, rebuild=options.rebuild, progress=report, share_weights=options.share_weights,
        ) as generator:  # fmt: skip
            _check_choices(options, config, generator)
            start = time.perf_counter()
            shutdown.check()
            progress.show("preparing the photo")
            photo = generator.read_photo(options.image, keypoints=options.image_keypoints, crop=options.crop)
            prepared = time.perf_counter() - start
            shutdown.check()
            progress.show("reading inputs and loading engines")
            video = generator.generate(
                photo, options.audio, keypoints=_keypoints(options), depth=options.depth, retarget=options.retarget,
                config=config, noise=options.noise, window_order=options.window_order, output=options.output,
                progress=report,
            )  # fmt: skip
        if options.quiet:
            for note in video.notes:
                if note.startswith(_REPAIRS):
                    progress.warn(note)
    return "" if options.quiet else _report(video, generator.size, prepared)


def _keypoints(options: argparse.Namespace) -> KeypointTrack | str | None:
    """Return the keypoints for `Generator.generate`: the file, or its track with the size in --keypoints-size."""
    if options.keypoints is None or options.keypoints_size is None:
        return options.keypoints  # type: ignore[no-any-return]
    from vexpress_rt.face.keypoint_track import KEYPOINT_SUFFIXES, load_keypoints

    if Path(options.keypoints).suffix.lower() not in KEYPOINT_SUFFIXES:
        raise ConfigError(
            f"--keypoints-size is given for {options.keypoints}, which is read as a driving video and has its own "
            f"size; expected a file of keypoints ({', '.join(KEYPOINT_SUFFIXES)}): leave --keypoints-size out"
        )
    return replace(load_keypoints(options.keypoints), size=options.keypoints_size)


def _check_files(options: argparse.Namespace) -> None:
    """Check that the inputs exist and that the output does not replace one of them."""
    for flag in ("image", "audio", "keypoints", "depth"):
        name = getattr(options, flag)
        if name is not None and not os.path.exists(name):
            raise InputError(f"--{flag} is {name}, and there is no such file: check the path")
        if same_file(name, Path(options.output)):
            raise OutputError(f"--output is {options.output}, the file that --{flag} reads: choose another name")


def _check_choices(options: argparse.Namespace, config: GenerationConfig, generator: Generator) -> None:
    """Check the options before the photo is read."""
    from vexpress_rt.media.video_writer import check_output
    from vexpress_rt.stages.pose import choose_pose

    check_output(options.output)
    manifest = generator.bundle.manifest
    manifest.settings(config)
    choose_pose(options.retarget, options.keypoints, manifest.model.guiders, depth=options.depth is not None)


def _report(video: Video, size: tuple[int, int], prepared: float) -> str:
    """Return a few lines about a video. `prepared` is the time of reading the photo in seconds."""
    seconds = {**video.timings, "portrait": video.timings.get("portrait", 0.0) + prepared}
    total = seconds.pop("total") + prepared
    stages = sorted(seconds.items(), key=lambda item: -item[1])
    timings = ", ".join(f"{name} {part:.1f} s" for name, part in stages if part >= 0.05)
    return "\n".join(
        [
            f"{video.path}: {video.length} frames of {size[1]} x {size[0]} pixels (width x height) at "
            f"{float(video.fps):.6g} fps, {video.duration:.2f} s",
            f"made in {duration(total)} ({video.length / total:.2f} frames/s): {timings}",
            *(f"note: {note}" for note in video.notes),
        ]
    )
