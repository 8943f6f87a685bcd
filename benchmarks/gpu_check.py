"""Check everything that needs a GPU in less than ten minutes; write one JSON file.

    python -m benchmarks.gpu_check

Checks the CUDA kernels against NumPy, builds bundles of synthetic weights for every library that accepts this GPU,
compares every engine and a whole short video with the CPU's, and times each engine, a step of a window and a whole
video against the same networks in PyTorch. `benchmarks/README.md` documents installation and result.

Every part runs in its own process with a time limit, so that a crash is a result and the other parts go on. A part ends
as "ok", "failed" (with figures or the error) or "not available" (with the reason). Without a GPU, no part is available.
The exit code is 1 if a part failed, and 128 + n after signal n; else 0.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu.machine import file_stem
from benchmarks.gpu.part_runner import run_parts
from benchmarks.gpu.parts import NOT_AVAILABLE, OK, Outcome, Part
from benchmarks.gpu.plan import KINDS, SIZES, plan, runtimes, select
from benchmarks.gpu.report import Report, comparison, counts, line, table
from vexpress_rt.utils.signals import GracefulShutdown

RESULTS = Path(__file__).parent / "results"
BUDGET = 570.0  # seconds: just under ten minutes
MACHINE = Part("machine", "benchmarks.gpu.machine:describe")
MEMORY_OF_A_BUILD = 24 << 30  # bytes that a build of the full model needs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = _parse(arguments)
    with ExitStack() as stack:
        shutdown = stack.enter_context(GracefulShutdown())
        if given.work is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-check-")))
        else:
            work = given.work.resolve()
            work.mkdir(parents=True, exist_ok=True)
        try:
            return _run(given, work)
        except KeyboardInterrupt:
            print("interrupted; the result has the parts that had ended", file=sys.stderr)
            return shutdown.exit_code


def _run(given: argparse.Namespace, work: Path) -> int:
    started = time.monotonic()
    parts = select(plan(SIZES[given.size], runtimes(given.rtx), work), given.parts)
    found = _machine(given.commit, work, given.budget)
    machine = found.figures
    now = datetime.datetime.now(datetime.UTC)
    output = given.output or RESULTS / f"{file_stem(machine)}-{now.date()}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    asked = {"size": given.size, "parts": given.parts, "budget": given.budget, "jobs": given.jobs}
    report = Report(output, {"started": now.isoformat(timespec="seconds"), "asked": asked, "machine": machine}, parts)

    def done(part: Part, outcome: Outcome) -> None:
        report.add(part, outcome)
        print(line(part, outcome), flush=True)

    report.write()
    if found.status != OK:
        done(MACHINE, found)
    if machine["gpu"] is None:
        print(machine["no_gpu"])
        for part in parts:
            report.add(part, Outcome(NOT_AVAILABLE, machine["no_gpu"]))
            print(line(part, Outcome(NOT_AVAILABLE, "no GPU")))
    else:
        run_parts(parts, done, work=work, budget=given.budget - (time.monotonic() - started), jobs=given.jobs)
    report.write(seconds=time.monotonic() - started)
    if rows := comparison(report.outcomes):
        print(f"\n{table(rows)}\n")
    print(f"{counts(report.outcomes.values())}; {output}")
    return 1 if report.failed else 0


def _machine(commit: str, work: Path, budget: float) -> Outcome:
    """Run `machine.describe` in its own process, because a driver may hang or crash."""
    found: list[Outcome] = []
    part = Part(MACHINE.name, MACHINE.function, {"commit": commit})
    run_parts([part], lambda part, outcome: found.append(outcome), work=work, budget=min(budget, 60.0), jobs=1)
    if found[0].status == OK:
        return found[0]
    why = f"the machine could not be described: {found[0].reason}"
    return replace(found[0], figures={"gpu": None, "cpu": "unknown", "no_gpu": why})


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description="Check everything that needs a GPU."
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="full", help="size of the timed networks (full)")
    words = "file to write (benchmarks/results/MACHINE-DATE.json)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=words)
    words = f"time limit of all parts together ({BUDGET:.0f})"
    parser.add_argument("--budget", type=_seconds, default=BUDGET, metavar="SECONDS", help=words)
    words = "folder with another version of TensorRT for RTX, tried if the earlier ones refuse the GPU; may be repeated"
    parser.add_argument("--rtx", type=_folder, action="append", default=[], metavar="DIR", help=words)
    parser.add_argument(
        "--parts", nargs="+", choices=KINDS, default=list(KINDS), help="run only these parts and their dependencies"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep weights, bundles and logs here for another run")
    words = "number of parallel builds (by cores and memory: %(default)s)"
    parser.add_argument("--jobs", type=int, default=_jobs(), help=words)
    parser.add_argument("--commit", default="", help="commit of this checkout, if git cannot tell")
    given = parser.parse_args(arguments)
    names = [runtime.name for runtime in runtimes(given.rtx)]
    if len(set(names)) < len(names):
        folders = ", ".join(map(str, given.rtx))
        parser.error(f"two --rtx folders have the same last name: {folders}; expected different names")
    return given


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 86400:
        raise argparse.ArgumentTypeError(f"{text!r}; expected seconds above 0 and below a day")
    return seconds


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder; expected one with installed packages")
    return path


def _jobs() -> int:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(len(os.sched_getaffinity(0)) // 4, memory // MEMORY_OF_A_BUILD))


if __name__ == "__main__":
    sys.exit(main())
