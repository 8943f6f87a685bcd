"""Measure the peak memory of a video by the length of its speech, each in its own process. Linux only.

python -m benchmarks.memory --minutes 1 10                    # the small model; frames are dropped
python -m benchmarks.memory --engines engines/tiny --fps 5 --steps 2 --write
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.arguments import positive
from benchmarks.seams import SPEECH, long_speech
from export.command import run
from vexpress_rt import GenerationConfig, Generator
from vexpress_rt.bundle.default_bundle import shipped_bundle

RATE = 16000
FACE = ((0.4, 0.4), (0.6, 0.4), (0.5, 0.55))  # left eye, right eye, nose as shares of width and height


def write_speech(path: Path, seconds: float) -> Path:
    """Write a 16-bit WAV file of speech of any length."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((long_speech(SPEECH, RATE, seconds).clip(-1, 1) * 32767).astype("<i2").tobytes())
    return path


def peak() -> int:
    """Return the peak memory of this process in bytes; unlike `ru_maxrss`, without that of its parent."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(kilobytes)


def make(engines: Path, speech: Path, fps: float, steps: int, output: Path | None) -> dict[str, float]:
    """Make a video; return its frames, seconds and peak memory in bytes, including the engines."""
    config, start = GenerationConfig(fps=fps, steps=steps), time.perf_counter()
    with Generator(engines, provider="cpu") as generator:
        height, width = generator.size
        photo = np.full((height, width, 3), 128, np.uint8)
        portrait = generator.prepare(photo, keypoints=np.array(FACE) * (width, height))
        if output is not None:
            count = generator.generate(portrait, speech, config=config, output=output).length
        else:
            with generator.stream(portrait, speech, config=config) as stream:
                count = sum(1 for _ in stream)
    return {"frames": count, "seconds": time.perf_counter() - start, "peak": peak()}


def measure(engines: Path, minutes: float, fps: float, steps: int, *, write: bool) -> dict[str, float]:
    """Run `make` in a new process, on speech of `minutes` minutes.

    Raises:
        CalledProcessError: The process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        speech = write_speech(Path(folder) / "speech.wav", 60 * minutes)
        output = [str(Path(folder) / "out.mp4")] if write else []
        command = [sys.executable, "-m", "benchmarks.memory", "--make", str(engines), str(speech), str(fps), str(steps)]
        finished = subprocess.run([*command, *output], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout)  # type: ignore[no-any-return]


def _make(engines: str, speech: str, fps: str, steps: str, output: str | None = None) -> None:
    made = make(Path(engines), Path(speech), float(fps), int(steps), None if output is None else Path(output))
    print(json.dumps(made))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--make"]:
        return run(lambda: _make(*arguments[1:]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=Path, default=shipped_bundle(), metavar="DIR")
    parser.add_argument("--minutes", type=positive, nargs="+", default=[1, 10], metavar="X")
    parser.add_argument("--fps", type=positive, default=5, metavar="X")
    parser.add_argument("--steps", type=int, default=2, metavar="N")
    parser.add_argument("--write", action="store_true", help="write a video file, instead of dropping the frames")
    given = parser.parse_args(arguments)
    try:
        return run(lambda: _measure_all(given))
    except subprocess.CalledProcessError:
        return 1


def _measure_all(given: argparse.Namespace) -> None:
    print(f"{'minutes':>8} {'frames':>7} {'seconds':>8} {'peak MB':>8} {'ratio':>7}")
    first = 0.0
    for minutes in given.minutes:
        made = measure(given.engines, minutes, given.fps, given.steps, write=given.write)
        first = first or made["peak"]
        print(f"{minutes:8g} {made['frames']:7.0f} {made['seconds']:8.1f} {made['peak'] / 1e6:8.1f} "
              f"{made['peak'] / first:7.3f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
