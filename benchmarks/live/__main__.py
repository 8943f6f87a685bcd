"""Measure live mode: sustained frame rate, latency, memory growth, drift, and the difference to `generate`.

    python -m benchmarks.live --minutes 5 --bundle engines/pocket --threads 2 --json live.json

A drawn person repeats a recording. Options that are not given are those that the bundle recommends for live sessions;
the report's `settings` has them all. There are three measurements:

* The sustained frame rate, with all sound available from the start.
* `--minutes` on a simulated clock (see `clock`) on which chunks arrive, at the bundle's frame rate if it is sustained,
  else at 0.9 of the sustained rate.
* Quality: a video of the recording by `generate` with the same settings, and another one live.

On a shared machine, `--threads 1 --timer cpu` measures the CPU time of this process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import not_negative, positive
from benchmarks.live.clock import CheckedSession, Recording, run, sustained
from benchmarks.live.figures import growth, machine, percentiles, resident
from benchmarks.live.options import add_options, chosen_options
from benchmarks.live.quality import RATE, Speaker, best_shift, compare, expected_lips, measured_lips
from export import command
from export.pocket.evaluate.measuring import correlation
from export.pocket.evaluate.subjects import FIRST, make_subject
from vexpress_rt import GenerationConfig, Generator, Portrait
from vexpress_rt.config import RECOMMENDABLE, Settings
from vexpress_rt.media.recording import open_recording

TIMERS = {"wall": time.perf_counter, "cpu": time.process_time}
HEADROOM = 0.9  # share of the sustained rate
PIECE = 20.0  # seconds at the beginning and at the end in which lips and sound are compared


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = _parser().parse_args(arguments)
    return command.run(lambda: _measure(given))


def _measure(given: argparse.Namespace) -> None:
    config = GenerationConfig(**chosen_options(given))
    options = {"look_ahead": given.look_ahead, "context": given.context}
    with Generator(
        given.bundle, provider=given.provider, device=given.device, precision=given.precision, threads=given.threads
    ) as generator:
        photo = make_subject(FIRST).photo()
        settings = generator.bundle.manifest.settings(config, live=True)
        portrait = generator.prepare(photo.image, keypoints=photo.keypoints)
        recording = Recording(open_recording(given.audio, RATE).read(), RATE)
        report = {
            "machine": machine(),
            "generator": generator.describe().splitlines(),
            "asked": _asked(given),
            "settings": {name: getattr(settings, name) for name in RECOMMENDABLE},
        }
        if given.minutes > 0:
            report |= _speed(generator, portrait, recording, settings, options, given)
        if given.people > 0:
            report["cost"] = _cost(generator, recording, settings, options, given.people)
    text = json.dumps(report, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n")


def _speed(
    generator: Generator, portrait: Portrait, recording: Recording, settings: Settings,
    options: dict[str, float], given: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    began = time.perf_counter()
    with generator.live(portrait, config=settings, **options) as session:
        begin = time.perf_counter() - began
        wanted = session.fps
        rate = sustained(CheckedSession(session, recording), min(30.0, 6 * given.minutes), TIMERS[given.timer])
    kept_up = rate >= wanted
    if not kept_up:
        settings = replace(settings, fps=max(1.0, round(HEADROOM * rate, 2)))
    found = {"begin_s": begin, "sustained_fps": rate, "fps": float(wanted), "keeps_up": bool(kept_up)}
    return found | {"clock": _on_the_clock(generator, portrait, recording, settings, options, given)}


def _on_the_clock(
    generator: Generator, portrait: Portrait, recording: Recording, settings: Settings,
    options: dict[str, float], given: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    memory: list[tuple[float, float]] = []
    with generator.live(portrait, config=settings, max_lag=3600.0, **options) as session:
        lips: list[float] = []
        checked = CheckedSession(
            session, recording, lambda frame: lips.extend(measured_lips(frame.image[None], portrait.keypoints))
        )
        result = run(
            checked, given.chunk / 1000, 60 * given.minutes, lambda now: memory.append((now, resident())),
            TIMERS[given.timer],
        )  # fmt: skip
        fps = float(session.fps)
    if checked.count < 2:
        raise SystemExit(f"{checked.count} frames in {given.minutes} minutes; expected at least 2: raise --minutes")
    return {
        "fps": fps,
        "seconds": result.seconds,
        "busy": result.worked / result.seconds,
        "frames": checked.count,
        "latency_s": percentiles(result.latencies),
        "lag_in_the_end_s": result.lag,
        "frames_with_wrong_sound_or_time": checked.wrong,
        "sound_to_time_s_at_most": checked.largest_offset,
        "memory_mib": growth(memory),
        "lips": _lips(np.array(lips), recording, fps),
    }


def _cost(
    generator: Generator, recording: Recording, settings: Settings, options: dict[str, float], people: int
) -> dict[str, Any]:
    found = {}
    for seed in range(FIRST, FIRST + people):
        photo = make_subject(seed).photo()
        portrait = generator.prepare(photo.image, keypoints=photo.keypoints)
        found[str(seed)] = compare(generator, Speaker(portrait, recording.samples), settings, **options)
    return found


def _lips(measured: np.ndarray, recording: Recording, fps: float) -> dict[str, Any]:
    """Return correlation of the lips with the sound and their delay in frames, in the first and the last PIECE."""
    length = min(round(PIECE * fps), len(measured) // 2)
    found = {}
    for name, start in (("first", 0), ("last", len(measured) - length)):
        first, last = (round(frame * recording.rate / fps) for frame in (start, start + length))
        expected, piece = expected_lips(recording.piece(first, last), fps)[:length], measured[start : start + length]
        found[name] = {"correlation": correlation(piece, expected), "late_frames": best_shift(piece, expected)}
    return found


def _asked(given: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--minutes", type=not_negative, default=5.0, help="minutes on the clock; 0 does not measure speed (5)")
    add("--people", type=int, default=1, help="people whose live videos are compared with generate's; 0 for none (1)")
    add("--chunk", type=positive, default=40.0, help="milliseconds of a chunk of sound (40)")
    add("--device", help="device of a provider that has several (its default)")
    add("--precision", help="precision that the engines compute in (the provider's default)")
    add("--timer", choices=TIMERS, default="wall", help="measure the work in wall-clock or CPU time (wall)")
    add("--look-ahead", type=float, default=0.1, help="seconds, as of Generator.live (0.1)")
    add("--context", type=float, default=3.0, help="seconds, as of Generator.live (3)")
    add_options(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
