"""Measure load time, memory and time per call of the two denoisers.

    python -m benchmarks.cpu.loading --bundle build/bench/half-*-bundle

Packed weights, the default, and shared weights (`Generator(share_weights=True)`) are measured in processes of their
own. Linux only: memory is the process's proportional set size (Pss).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.timings import timed_inputs
from benchmarks.page.tables import loading_table
from vexpress_rt.backends.loaded_engines import Engines
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle.bundle import Bundle

DENOISERS = ("denoiser", "denoiser_cond")
CALLS = 7  # of each engine, after the first
WAYS = {"packed": False, "shared": True}
SMAPS = Path("/proc/self/smaps_rollup")


def measure(folder: Path, threads: int) -> dict[str, Any]:
    """Return a row per engine and kind of weights.

    Args:
        folder: Folder of the bundle.
        threads: CPU threads.

    Raises:
        CalledProcessError: An engine does not load.
    """
    rows = []
    for way in WAYS:
        line = [sys.executable, "-m", "benchmarks.cpu.loading", "--bundle", folder, "--threads", threads, "--way", way]
        answer = subprocess.run([str(word) for word in line], stdout=subprocess.PIPE, text=True, check=True)
        rows += json.loads(answer.stdout)
    return {"rows": rows}


def load_both(folder: Path, threads: int, way: str) -> list[dict[str, Any]]:
    """Load and measure both denoisers in this process, one after the other; memory includes the earlier engine."""
    bundle = Bundle.open(folder)
    engines = Engines(bundle, choose("cpu", bundle), threads, share_weights=WAYS[way])
    before, rows = _mebibytes(), []
    for name in DENOISERS:
        started = time.perf_counter()
        engine = engines.get(name)
        loading = time.perf_counter() - started
        inputs = timed_inputs(engine)
        engine.run(inputs)
        seconds = []
        for _ in range(CALLS):
            started = time.perf_counter()
            engine.run(inputs)
            seconds.append(time.perf_counter() - started)
        rows.append({
            "what": name, "weights": way, "loading": loading, "call": statistics.median(seconds),
            "mebibytes": _mebibytes() - before,
        })  # fmt: skip
    return rows


def _mebibytes() -> float:
    (line,) = (line for line in SMAPS.read_text(encoding="ascii").splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description="Measure time and memory of loading the denoisers.")
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the engines")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if not SMAPS.exists():
        print(f"{SMAPS}, which lists the memory in use, does not exist; expected Linux", file=sys.stderr)
        return 2
    if given.way:
        print(json.dumps(load_both(given.bundle, given.threads, given.way)))
        return 0
    figures = measure(given.bundle, given.threads)
    print("\n".join(loading_table({"loading": {"figures": figures}})))
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
