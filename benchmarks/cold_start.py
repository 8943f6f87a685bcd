"""Measure the time from the start of a process to the first frame of a video.

    python -m benchmarks.cold_start --json cold.json                                    # the small model
    python -m benchmarks.cold_start --engines build/bench/half-*-bundle --evict --json half.json

Each run is two processes with an empty cache folder of their own: the first one fills it, the second one finds it full.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2

from benchmarks.arguments import positive
from benchmarks.memory import write_speech
from export.command import run
from export.pocket.evaluate.subjects import FIRST, make_subject
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.utils.cpu_model import cpu_model
from vexpress_rt.utils.cpus import limit_threads
from vexpress_rt.utils.user_cache import FOLDER_VARIABLE

WAYS = {"cpu": ("cpu", None), "openvino-fp32": ("openvino", "fp32"), "openvino-bf16": ("openvino", "bf16")}
STAGES = ("interpreter", "import", "open", "inputs", "load", "photo", "first window", "first frame", "total")
PROCESSES = ("first", "second")


def measure(
    folder: Path, ways: Sequence[str], *, repeats: int, steps: int, seconds: float, threads: int, evict: bool
) -> dict[str, Any]:
    """Measure a bundle, and return a row for each way and process: median seconds by stage, and the runs.

    Ways take turns, so that a machine that is slow for a while slows all of them.

    Args:
        folder: Folder of the bundle.
        ways: Keys of `WAYS`.
        repeats: Runs of each way.
        steps: Denoising steps.
        seconds: Length of the speech.
        threads: CPU threads.
        evict: Drop the files of bundle and cache from the page cache before each process.

    Raises:
        CalledProcessError: A process failed.
    """
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {(way, one): [] for way in ways for one in PROCESSES}
    with tempfile.TemporaryDirectory() as place:
        photo, speech = _write_inputs(Path(place), seconds)
        for repeat in range(repeats):
            for way in ways:
                cache = Path(place) / f"cache-{way}-{repeat}"
                for process in PROCESSES:
                    left = drop_from_page_cache(folder, cache) if evict else None
                    options = {
                        "bundle": str(folder), "provider": WAYS[way][0], "precision": WAYS[way][1], "steps": steps,
                        "threads": threads, "photo": str(photo), "speech": str(speech),
                    }  # fmt: skip
                    runs[way, process].append({**_process(options, cache), "resident before": left})
    rows = [
        {
            "way": way,
            "process": process,
            "seconds": {name: statistics.median(one["seconds"][name] for one in found) for name in found[0]["seconds"]},
            "runs": found,
        }
        for (way, process), found in runs.items()
    ]
    return {"bundle": str(folder), "steps": steps, "evicted": evict, "rows": rows}


def drop_from_page_cache(*folders: Path) -> float:
    """Ask the system to drop the files in these folders from its page cache; return the share that is still there.

    The files of libraries stay: other processes use them. The system keeps pages that are mapped or not yet written.
    """
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    for path in files:
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(opened)
    return resident_share(files)


def resident_share(files: Iterable[Path]) -> float:
    """Return the share of the pages of files that is in the page cache, 0 to 1 (mincore(2))."""
    library = ctypes.CDLL(None, use_errno=True)
    there = pages = 0
    for path in files:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as content:
            count = -(-len(content) // mmap.PAGESIZE)
            found = (ctypes.c_ubyte * count)()
            start = (ctypes.c_char * len(content)).from_buffer(content)
            failed = library.mincore(ctypes.byref(start), ctypes.c_size_t(len(content)), found)
            del start
            if failed:
                raise OSError(ctypes.get_errno(), "mincore failed", str(path))
            there, pages = there + sum(one & 1 for one in bytes(found)), pages + count
    return there / pages if pages else 0.0


def table(figures: dict[str, Any]) -> list[str]:
    """Return a table of the medians in Markdown, one row for each way and process."""
    lines = [
        "| provider | process | " + " | ".join(STAGES) + " |",
        "|---|---|" + "---:|" * len(STAGES),
    ]
    for row in figures["rows"]:
        cells = " | ".join(f"{row['seconds'][name]:.2f}" for name in STAGES)
        lines.append(f"| {row['way']} | {row['process']} | {cells} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=Path, default=shipped_bundle(), metavar="DIR")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="providers and precisions")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs of two processes each (3)")
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="denoising steps (1)")
    parser.add_argument("--seconds", type=positive, default=0.3, metavar="X", help="seconds of speech (0.3)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (as Generator chooses)")
    parser.add_argument("--evict", action="store_true", help="drop bundle and cache from the page cache first (Linux)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    given = parser.parse_args(arguments)
    return run(lambda: _measure(given))


def _measure(given: argparse.Namespace) -> None:
    Bundle.open(given.engines)  # an error of the command line is reported before any process starts
    threads = limit_threads(given.threads).threads
    figures = {
        "machine": {"cpu": cpu_model().describe(), "threads": threads},
        **measure(
            given.engines, given.ways, repeats=given.repeats, steps=given.steps, seconds=given.seconds,
            threads=threads, evict=given.evict,
        ),
    }  # fmt: skip
    print("\n".join(table(figures)))
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _write_inputs(folder: Path, seconds: float) -> tuple[Path, Path]:
    """Write a photo of a drawn person and a recording of its speech; return their files."""
    photo = folder / "photo.png"
    cv2.imwrite(str(photo), make_subject(FIRST).photo().image[..., ::-1])
    return photo, write_speech(folder / "speech.wav", seconds)


def _process(options: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Run one process with a cache folder, and return what it prints."""
    cache.mkdir(exist_ok=True)
    line = [sys.executable, "-m", "benchmarks.cold_start_process"]
    environment = {**os.environ, FOLDER_VARIABLE: str(cache)}
    argument = json.dumps({**options, "began": time.monotonic()})  # one clock for all processes of the system
    done = subprocess.run([*line, argument], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
