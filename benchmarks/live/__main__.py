"""Live mode, measured: how many frames a second it sustains, how soon they come, whether anything grows or drifts, and
what it costs against exact mode.

    python -m benchmarks.live --minutes 5 --bundle engines/pocket --threads 2 --json live.json

A drawn person says a recording again and again. First frames are made of sound that is always there: the sustained
rate. Then chunks arrive on a clock that work moves by the time that it takes (see `clock`), for as many minutes as
asked for, at the bundle's frames a second if they are sustained, else at nine tenths of what is. Then a person says the
recording once by `generate` and once live.

On a machine that others use as well, `--threads 1 --timer cpu` counts the time that a core worked for this process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import not_negative, positive
from benchmarks.live.clock import Recording, Watched, run, sustained
from benchmarks.live.quality import RATE, Speaker, asked_lips, best_shift, compare, seen_lips
from export import command
from export.pocket.evaluate.measuring import correlation
from export.pocket.evaluate.subjects import FIRST, make_subject
from vexpress_rt import GenerationConfig, Generator, Portrait
from vexpress_rt.media.recording import open_recording

SPEECH = Path(__file__).parents[2] / "demo" / "speech.flac"
TIMERS = {"wall": time.perf_counter, "cpu": time.process_time}
HEADROOM = 0.9  # of what is sustained
PIECE = 20.0  # seconds of which the lips are compared at the beginning and in the end
OPTIONS = {"preset": str, "sampler": str, "steps": int, "guidance-scale": float, "overlap": int, "fps": float}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives its exit code."""
    given = _parser().parse_args(arguments)
    return command.run(lambda: _measure(given))


def _measure(given: argparse.Namespace) -> None:
    config = GenerationConfig(**{name: getattr(given, name) for name in _names(OPTIONS)})
    options = {"look_ahead": given.look_ahead, "context": given.context}
    with Generator(given.bundle, provider=given.provider, threads=given.threads) as generator:
        photo = make_subject(FIRST).photo()
        portrait = generator.prepare(photo.image, keypoints=photo.keypoints)
        recording = Recording(open_recording(given.audio, RATE).read(), RATE)
        report = {"machine": _machine(), "generator": generator.describe().splitlines(), "asked": _asked(given)}
        if given.minutes > 0:
            report |= _speed(generator, portrait, recording, config, options, given)
        if given.people > 0:
            report["cost"] = _cost(generator, recording, config, options, given.people)
    text = json.dumps(report, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n")


def _speed(
    generator: Generator, portrait: Portrait, recording: Recording, config: GenerationConfig,
    options: dict[str, float], given: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    began = time.perf_counter()
    with generator.live(portrait, config=config, **options) as session:
        begin = time.perf_counter() - began
        wanted = session.fps
        rate = sustained(Watched(session, recording), min(30.0, 6 * given.minutes), TIMERS[given.timer])
    kept_up = rate >= wanted
    if not kept_up:
        config = replace(config, fps=max(1.0, round(HEADROOM * rate, 2)))
    found = {"begin_s": begin, "sustained_fps": rate, "fps": float(wanted), "keeps_up": bool(kept_up)}
    return found | {"clock": _on_the_clock(generator, portrait, recording, config, options, given)}


def _on_the_clock(
    generator: Generator, portrait: Portrait, recording: Recording, config: GenerationConfig,
    options: dict[str, float], given: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    memory: list[tuple[float, float]] = []
    with generator.live(portrait, config=config, max_lag=3600.0, **options) as session:
        lips: list[float] = []
        watched = Watched(
            session, recording, lambda frame: lips.extend(seen_lips(frame.image[None], portrait.keypoints))
        )
        result = run(
            watched, given.chunk / 1000, 60 * given.minutes, lambda now: memory.append((now, _resident())),
            TIMERS[given.timer],
        )  # fmt: skip
        fps = float(session.fps)
    if watched.given < 2:
        raise SystemExit(f"{watched.given} frames came in {given.minutes} minutes: give more --minutes")
    return {
        "fps": fps,
        "seconds": result.seconds,
        "busy": result.worked / result.seconds,
        "frames": watched.given,
        "latency_s": _percentiles(result.latencies),
        "lag_in_the_end_s": result.lag,
        "frames_with_wrong_sound_or_time": watched.wrong,
        "sound_to_time_s_at_most": watched.off,
        "memory_mib": _memory(memory),
        "lips": _lips(np.array(lips), recording, fps),
    }


def _cost(
    generator: Generator, recording: Recording, config: GenerationConfig, options: dict[str, float], people: int
) -> dict[str, Any]:
    found = {}
    for seed in range(FIRST, FIRST + people):
        photo = make_subject(seed).photo()
        portrait = generator.prepare(photo.image, keypoints=photo.keypoints)
        found[str(seed)] = compare(generator, Speaker(portrait, recording.samples), config, **options)
    return found


def _lips(seen: np.ndarray, recording: Recording, fps: float) -> dict[str, Any]:
    """How lips follow the sound in the first and in the last PIECE: correlation, and frames by which they come late."""
    length = min(round(PIECE * fps), len(seen) // 2)
    found = {}
    for name, start in (("first", 0), ("last", len(seen) - length)):
        first, last = (round(frame * recording.rate / fps) for frame in (start, start + length))
        asked, piece = asked_lips(recording.piece(first, last), fps)[:length], seen[start : start + length]
        found[name] = {"correlation": correlation(piece, asked), "late_frames": best_shift(piece, asked)}
    return found


def _percentiles(latencies: list[float]) -> dict[str, float]:
    values = np.array(latencies) if latencies else np.array([np.nan])
    return {"p50": float(np.percentile(values, 50)), "p95": float(np.percentile(values, 95)), "max": values.max()}


def _memory(samples: list[tuple[float, float]]) -> dict[str, float]:
    """DeviceTensor memory after a fifth of the time and in the end, and its slope in between."""
    later = np.array(samples[len(samples) // 5 :])
    slope = np.polyfit(later[:, 0] / 60, later[:, 1], 1)[0]
    tenth = max(1, len(later) // 10)
    first, last = float(np.median(later[:tenth, 1])), float(np.median(later[-tenth:, 1]))
    return {"after_a_fifth": first, "in_the_end": last, "growth_a_minute": float(slope)}


def _resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "load": os.getloadavg()[0], "platform": platform.platform()}


def _asked(given: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}


def _names(options: dict[str, type]) -> list[str]:
    return [flag.replace("-", "_") for flag in options]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--minutes", type=not_negative, default=5.0, help="on the clock; 0 leaves speed out (5)")
    add("--people", type=int, default=1, help="who are compared with exact mode; 0 leaves that out (1)")
    add("--bundle", type=Path, help="engines (those that ship)")
    add("--audio", type=Path, default=SPEECH, help="what is said (demo/speech.flac)")
    add("--chunk", type=positive, default=40.0, help="milliseconds (40)")
    add("--provider", default="auto")
    add("--threads", type=int, help="of the CPU (one a core)")
    add("--timer", choices=TIMERS, default="wall", help="how work is timed (wall)")
    add("--look-ahead", type=float, default=0.1, help="seconds (0.1)")
    add("--context", type=float, default=3.0, help="seconds (3)")
    for flag, kind in OPTIONS.items():
        add(f"--{flag}", type=kind, help="as the bundle has it, if left out")
    add("--json", type=Path, help="file to write the result to")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
