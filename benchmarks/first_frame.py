"""Measure the time to the first frame by window order.

python -m benchmarks.first_frame --seconds 60 --steps 8       # the small model
python -m benchmarks.first_frame --seconds 1 2 --overlap 0 --window-orders wavefront --whole
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.arguments import positive
from benchmarks.memory import FACE
from benchmarks.seams import SPEECH, long_speech
from export.command import run
from vexpress_rt import GenerationConfig, Generator, Portrait
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.config import WAVEFRONT, WINDOW_ORDERS
from vexpress_rt.types import Float32


@dataclass(frozen=True)
class Wait:
    """The wait for the first frame of a stream.

    Attributes:
        seconds: Wall-clock time from the call to the frame.
        processor: CPU time of the process, which other programs affect less.
        calls: Window-steps before the frame.
        total: Window-steps of the whole video.
        audio: Seconds of `seconds` in the audio encoder, which runs before the first window-step.
        whole: Wall-clock time from the call to the last frame; None if only the first was made.
    """

    seconds: float
    processor: float
    calls: int
    total: int
    audio: float = 0.0
    whole: float | None = None


Speech = tuple[Float32, int]  # mono samples, and their rate in Hz


def speech_of(generator: Generator, seconds: float) -> Speech:
    """Return speech of `seconds` seconds at the sample rate of the generator's model."""
    rate = generator.bundle.manifest.model.sample_rate
    return long_speech(SPEECH, rate, seconds), rate


def first_frame(
    generator: Generator,
    portrait: Portrait,
    speech: Speech,
    config: GenerationConfig,
    window_order: str,
    *,
    whole: bool = False,
) -> Wait:
    """Measure the first frame of a video, with engines already loaded; end the video there, or with `whole` make it."""
    steps = [(0, 0)]

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "denoise":
            steps.append((done, total))

    clock, processor = time.perf_counter(), time.process_time()
    with generator.stream(portrait, speech, config=config, window_order=window_order, progress=progress) as stream:
        next(stream)
        wait = Wait(
            time.perf_counter() - clock, time.process_time() - processor, *steps[-1], stream.timings.get("audio", 0.0)
        )
        for _ in stream if whole else ():
            pass
        return replace(wait, whole=time.perf_counter() - clock) if whole else wait


def warmed_up(generator: Generator) -> Portrait:
    """Run all engines once and return the portrait to measure with."""
    height, width = generator.size
    portrait = generator.prepare(np.full((height, width, 3), 128, np.uint8), keypoints=np.array(FACE) * (width, height))
    for scale in (1.0, 2.0):
        first_frame(
            generator,
            portrait,
            speech_of(generator, 0.5),
            GenerationConfig(steps=1, guidance_scale=scale),
            WAVEFRONT,
        )
    return portrait


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=Path, default=shipped_bundle(), metavar="DIR")
    parser.add_argument(
        "--seconds", type=positive, nargs="+", default=[60.0], metavar="X", help="seconds of speech (default: 60)"
    )
    parser.add_argument("--preset", metavar="NAME")
    parser.add_argument("--steps", type=int, metavar="N", help="(default: as the preset or the bundle says)")
    parser.add_argument("--overlap", type=int, metavar="N")
    parser.add_argument("--fps", type=float, metavar="X")
    parser.add_argument("--guidance-scale", type=float, metavar="X")
    parser.add_argument("--window-orders", nargs="+", choices=WINDOW_ORDERS, default=WINDOW_ORDERS)
    parser.add_argument("--whole", action="store_true", help="make the whole video too")
    parser.add_argument("--threads", type=int, metavar="N")
    given = parser.parse_args(arguments)
    return run(lambda: _measure(given))


def _measure(given: argparse.Namespace) -> None:
    config = GenerationConfig(
        preset=given.preset,
        steps=given.steps,
        overlap=given.overlap,
        fps=given.fps,
        guidance_scale=given.guidance_scale,
    )
    print("speech, order, seconds to the first frame, CPU seconds, of these audio; window-steps, of all; whole video")
    with Generator(given.engines, provider="cpu", threads=given.threads) as generator:
        portrait = warmed_up(generator)
        for seconds in given.seconds:
            speech = speech_of(generator, seconds)
            for window_order in given.window_orders:
                wait = first_frame(generator, portrait, speech, config, window_order, whole=given.whole)
                made = "" if wait.whole is None else f" {wait.whole:8.2f}"
                print(
                    f"{seconds:6g} {window_order:>10} {wait.seconds:8.2f} {wait.processor:8.2f} {wait.audio:8.3f} "
                    f"{wait.calls:7} {wait.total:7}{made}",
                    flush=True,
                )


if __name__ == "__main__":
    raise SystemExit(main())
