"""The commands `generate`, `inspect` and `compile`, their exit codes and their handling of signals."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.cli.listing import describe
from vexpress_rt.cli.parser import parse
from vexpress_rt.cli.terminal import Progress, duration, open_stream, say
from vexpress_rt.config import OPTION_NAMES, GenerationConfig
from vexpress_rt.errors import ConfigError, InputError, OutputError, VExpressError
from vexpress_rt.utils.memory_errors import check_limit, explain, ran_out
from vexpress_rt.utils.paths import same_file
from vexpress_rt.utils.signals import GracefulShutdown

if TYPE_CHECKING:
    from vexpress_rt.pipeline.generator import Generator
    from vexpress_rt.types import KeypointTrack, Video

CLOSED = 128 + 13  # as if ended by SIGPIPE, which Python ignores
_REPAIRED = ("photo:", "audio:", "driving video:")  # beginnings of notes on repairs and omissions


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: see `__main__.main`."""
    given = parse(sys.argv[1:] if arguments is None else arguments)
    with GracefulShutdown(at_steps=True) as shutdown:
        try:
            return _print(_COMMANDS[given.command](given, shutdown))
        except BaseException as error:
            if shutdown.number is not None or isinstance(error, KeyboardInterrupt):  # a signal may cause any exception
                return _fail("interrupted; nothing partial is left", 128 + (shutdown.number or signal.SIGINT))
            if isinstance(error, VExpressError):
                return _fail(f"error: {error}", 1)
            if ran_out(error):
                return _fail(f"error: {explain(error)}", 1)
            raise


def _generate(given: argparse.Namespace, shutdown: GracefulShutdown) -> str:
    config = GenerationConfig(**{name: getattr(given, name) for name in OPTION_NAMES})
    _check_files(given)
    bundle = _bundle(given.engines, quiet=given.quiet)
    with Progress(open_stream(sys.stderr), quiet=given.quiet) as progress:
        progress.show("loading libraries and bundle")
        check_limit()
        from vexpress_rt.pipeline.generator import Generator

        def begin(what: str) -> None:
            shutdown.check()
            progress.show(what)

        report = _interruptible(progress, shutdown)
        with Generator(
            bundle, provider=given.provider, threads=given.threads, rebuild=given.rebuild, progress=report,
            share_weights=given.share_weights,
        ) as generator:  # fmt: skip
            _check_choices(given, config, generator)
            start = time.perf_counter()
            begin("preparing the photo")
            photo = generator.read_photo(given.image, keypoints=given.image_keypoints, crop=given.crop)
            prepared = time.perf_counter() - start
            begin("reading inputs and loading engines")
            video = generator.generate(
                photo, given.audio, keypoints=_keypoints(given), retarget=given.retarget, config=config,
                noise=given.noise, window_order=given.window_order, output=given.output, progress=report,
            )  # fmt: skip
        if given.quiet:
            for note in video.notes:
                if note.startswith(_REPAIRED):
                    progress.warn(note)
    return "" if given.quiet else _report(video, generator.size, prepared)


def _interruptible(progress: Progress, shutdown: GracefulShutdown) -> Callable[[str, int, int], None]:
    """Return a progress callback that raises Interrupted after a signal."""

    def report(stage: str, done: int, total: int) -> None:
        shutdown.check()
        progress(stage, done, total)

    return report


def _bundle(named: str | None, *, quiet: bool = False) -> str:
    """The bundle that was named, or else the one that ships, which is said then."""
    if named is not None:
        return named
    folder = str(shipped_bundle())
    if not quiet:
        with suppress(OSError, ValueError):
            said = f"no bundle was named: taking the small one that ships with vexpress-rt, {folder}"
            say(said, open_stream(sys.stderr))
    return folder


def _keypoints(given: argparse.Namespace) -> KeypointTrack | str | None:
    """Return the keypoints for `generate`: the file, or its points with the size of their pictures."""
    if given.keypoints is None or given.keypoints_size is None:
        return given.keypoints  # type: ignore[no-any-return]
    from vexpress_rt.face.keypoint_track import KEYPOINT_SUFFIXES, load_keypoints

    if Path(given.keypoints).suffix.lower() not in KEYPOINT_SUFFIXES:
        raise ConfigError(
            f"--keypoints-size is given for {given.keypoints}, which is read as a driving video and has its own size; "
            f"expected a file of keypoints ({', '.join(KEYPOINT_SUFFIXES)}): leave --keypoints-size out"
        )
    return replace(load_keypoints(given.keypoints), size=given.keypoints_size)


def _check_files(given: argparse.Namespace) -> None:
    """Find a mistyped name before the work, and never write over what is read."""
    for flag in ("image", "audio", "keypoints"):
        name = getattr(given, flag)
        if name is not None and not os.path.exists(name):
            raise InputError(f"--{flag} is {name}, and there is no such file: check the path")
        if same_file(name, Path(given.output)):
            raise OutputError(f"--output is {given.output}, the file that --{flag} reads: choose another name")


def _check_choices(given: argparse.Namespace, config: GenerationConfig, generator: Generator) -> None:
    """Check the options of `generate` before the photo is read."""
    from vexpress_rt.media.video_writer import check_output
    from vexpress_rt.stages.pose import choose_retarget

    check_output(given.output)
    generator.bundle.manifest.settings(config)
    choose_retarget(given.retarget, given.keypoints)


def _report(video: Video, size: tuple[int, int], prepared: float) -> str:
    seconds = {**video.timings, "portrait": video.timings.get("portrait", 0.0) + prepared}
    total = seconds.pop("total") + prepared
    shares = sorted(seconds.items(), key=lambda item: -item[1])
    spent = ", ".join(f"{name} {share:.1f} s" for name, share in shares if share >= 0.05)
    rate = f"{float(video.fps):.6g}"
    return "\n".join(
        [
            f"{video.path}: {video.length} frames of {size[1]} x {size[0]} pixels (width x height) at {rate} fps, "
            f"{video.duration:.2f} s",
            f"made in {duration(total)} ({video.length / total:.2f} frames/s): {spent}",
            *(f"note: {note}" for note in video.notes),
        ]
    )


def _inspect(given: argparse.Namespace, shutdown: GracefulShutdown) -> str:
    bundle = Bundle.open(_bundle(given.bundle))
    text = json.dumps(bundle.manifest.to_json(), indent=1) if given.json else describe(bundle)
    if given.verify:
        files = sorted(bundle.manifest.files.keys() - bundle.manifest.absent)
        with Progress(open_stream(sys.stderr)) as progress:
            for done, name in enumerate(files, start=1):
                bundle.verify(name)
                shutdown.check()
                progress("verify", done, len(files))
        for name, engine in bundle.manifest.engines.items():
            if engine.file not in bundle.manifest.absent:
                bundle.engine_path(name)  # checks the graph
        text += "" if given.json else f"\n\nverified: all {len(files)} files have their sha256"
    return text


def _compile(given: argparse.Namespace, shutdown: GracefulShutdown) -> str:
    from vexpress_rt.backends.tensorrt.plan_store import find_plans

    with Progress(open_stream(sys.stderr)) as progress:
        plans = find_plans(Bundle.open(given.bundle), progress=_interruptible(progress, shutdown), thorough=True)
    return f"{given.bundle} has plans for {plans.compilation.describe()}"


_COMMANDS = {"generate": _generate, "inspect": _inspect, "compile": _compile}


def _fail(text: str, code: int) -> int:
    with suppress(OSError, ValueError):
        say(text, open_stream(sys.stderr))
    return code


def _print(text: str) -> int:
    if not text:
        return 0
    try:
        say(text, open_stream(sys.stdout))
    except OSError as error:
        # Python flushes stdout once more when it ends, and would complain again.
        with suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED if isinstance(error, BrokenPipeError) else _fail(f"error: cannot print: {error}", 1)
    return 0
