"""The command line: `vexpress-rt generate` and `vexpress-rt inspect`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from vexpress_rt.arguments import parse
from vexpress_rt.bundle import Bundle
from vexpress_rt.config import OPTION_NAMES, GenerationConfig
from vexpress_rt.errors import InputError, OutputError, VExpressError
from vexpress_rt.listing import describe
from vexpress_rt.terminal import Progress, duration, say

if TYPE_CHECKING:
    from vexpress_rt.generator import Generator, Video

CLOSED = 128 + 13  # as if ended by SIGPIPE, which Python ignores


class Stopped(KeyboardInterrupt):
    """A signal asked for an end. number: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: done.  1: an error, told on stderr.  2, by SystemExit: wrong usage.  128 + n: ended by signal n (Ctrl-C: 130).
    """
    given = parse(sys.argv[1:] if arguments is None else arguments)
    with _stoppable():
        try:
            return _print(_generate(given) if given.command == "generate" else _inspect(given))
        except VExpressError as error:
            return _fail(f"error: {error}", 1)
        except KeyboardInterrupt as stop:
            return _fail("interrupted; nothing partial is left", 128 + getattr(stop, "number", signal.SIGINT))


def _generate(given: argparse.Namespace) -> str:
    config = GenerationConfig(**{name: getattr(given, name) for name in OPTION_NAMES})
    _check_files(given)
    with Progress(sys.stderr, quiet=given.quiet) as progress:
        progress.show("loading libraries and bundle")
        from vexpress_rt.generator import Generator  # slow to import, which help and wrong usage need not wait for

        with Generator(given.engines, provider=given.provider, threads=given.threads) as generator:
            _check_choices(given, config, generator)
            start = time.perf_counter()
            progress.show("preparing the photo")
            portrait = generator.prepare(given.image, keypoints=given.image_keypoints, crop=given.crop)
            prepared = time.perf_counter() - start
            progress.show("loading engines")
            video = generator.generate(
                portrait, given.audio, keypoints=given.keypoints, retarget=given.retarget, config=config,
                noise=given.noise, output=given.output, progress=progress,
            )  # fmt: skip
    return "" if given.quiet else _report(video, generator.size, prepared)


def _check_files(given: argparse.Namespace) -> None:
    """Find a mistyped name before the work, and never write over what is read."""
    for flag in ("image", "audio", "keypoints"):
        name = getattr(given, flag)
        if name is not None and not os.path.exists(name):
            raise InputError(f"--{flag} is {name}, and there is no such file: check the path")
        if name is not None and os.path.exists(given.output) and os.path.samefile(name, given.output):
            raise OutputError(f"--output is {given.output}, the file that --{flag} reads: choose another name")


def _check_choices(given: argparse.Namespace, config: GenerationConfig, generator: Generator) -> None:
    """What `generate` checks first, but here the photo's turn comes before, and takes long with large models."""
    from vexpress_rt.motion import choose_retarget
    from vexpress_rt.video import check_output

    check_output(given.output)
    choose_retarget(given.retarget, given.keypoints)
    config.check_against(generator.bundle.manifest.shape.frames)


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


def _inspect(given: argparse.Namespace) -> str:
    bundle = Bundle.open(given.bundle)
    text = json.dumps(bundle.manifest.to_json(), indent=1) if given.json else describe(bundle)
    if given.verify:
        engines = bundle.manifest.engines
        with Progress(sys.stderr) as progress:
            for done, name in enumerate(engines, start=1):
                bundle.engine_path(name)
                progress("verify", done, len(engines))
        text += "" if given.json else f"\n\nverified: all {len(bundle.manifest.files)} files have their sha256"
    return text


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the work as Ctrl-C does, and let no second signal cut the cleaning up short.

    Signals that are ignored (nohup) or handled by whoever calls `main` are left alone, as are other threads.
    """
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopped:
            stopped.append(number)
            raise Stopped(number)

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _fail(text: str, code: int) -> int:
    with suppress(OSError, ValueError):
        say(text, sys.stderr)
    return code


def _print(text: str) -> int:
    if not text:
        return 0
    try:
        say(text, sys.stdout)
    except OSError as error:
        with suppress(OSError, ValueError):  # Python flushes stdout once more when it ends, and would complain again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED if isinstance(error, BrokenPipeError) else _fail(f"error: cannot print: {error}", 1)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
