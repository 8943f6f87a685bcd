"""Measure everything that runs on a CPU; write one page of this machine with tables and plots, and a JSON.

    python -m benchmarks.report                                     # everything; an hour on two idle cores
    python -m benchmarks.report --quick                             # small sizes, to see that everything runs
    python -m benchmarks.report --parts live memory                 # measure these, keep the others
    python -m benchmarks.report --parts                             # measure nothing: all pages from their JSONs

The figures go to `docs/benchmarks/CPU`, the folder of this machine's CPU, and the index of all machines is rewritten. A
folder with figures of another CPU is refused. Every part runs alone, in its own process with a time limit. The JSON and
the page are written after each part, so that an interruption keeps the figures so far; the page names parts that failed
or did not run. Parts that `--parts` leaves out keep their figures in the JSON of the output folder.
`benchmarks/README.md` documents the measurements. The exit code is 1 if a part failed, 2 if the folder is refused, and
128 + n after signal n; else 0.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cpu.effort import QUICK, WHOLE
from benchmarks.gpu.machine import describe
from benchmarks.gpu.part_runner import run_parts
from benchmarks.gpu.parts import FAILED, NOT_AVAILABLE, Outcome, Part
from benchmarks.gpu.plan import select
from benchmarks.gpu.report import Report, counts, line
from benchmarks.page.index import JSON, MACHINES, README, write_index
from benchmarks.page.plan import KINDS, plan
from benchmarks.page.render import PAGE, size, write_page
from benchmarks.page.targets import targets
from vexpress_rt.utils.signals import GracefulShutdown

RESULTS = Path(__file__).parent / "results"
WORK = Path(__file__).parents[1] / "build" / "bench"
NOT_ASKED = "not selected by --parts in any run"
BUDGET = 5400.0  # seconds: the limit of all parts together


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = _parse(arguments)
    if not given.parts:
        folders = [path.parent for path in MACHINES.glob(f"*/{JSON}")] if given.output is None else [given.output]
        for folder in folders:
            if not (folder / JSON).is_file():
                print(f"{folder} has no {JSON}: name a folder that has it with --output", file=sys.stderr)
                return 2
            _write_pages(folder)
        return 0
    with GracefulShutdown() as shutdown:
        return _measure(given, shutdown)


def _measure(given: argparse.Namespace, shutdown: GracefulShutdown) -> int:
    started, machine = time.monotonic(), describe({"commit": given.commit}, lambda figures: None)
    now = datetime.datetime.now(datetime.UTC)
    folder = given.output or (RESULTS / f"{machine['slug']}-quick" if given.quick else MACHINES / machine["slug"])
    if refusal := _refusal(folder / JSON, machine):
        print(refusal, file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    given.work.mkdir(parents=True, exist_ok=True)
    parts = plan(QUICK if given.quick else WHOLE, threads=given.threads, work=given.work.resolve(), quick=given.quick)
    wanted, before = select(parts, given.parts), _before(folder / JSON, given.quick)
    run = {
        "started": now.isoformat(timespec="seconds"), "cpu": machine["cpu"], "commit": machine["commit"],
        "parts": given.parts, "quick": given.quick, "threads": given.threads,
    }  # fmt: skip
    head = {"machine": machine, "runs": [*before.get("runs", []), run]}
    report = Report(folder / JSON, head, parts, partial(targets, machine=machine))
    report.outcomes |= _others(before, parts, wanted)

    measured = {name: run[name] for name in ("started", "commit", "cpu")}

    def done(part: Part, outcome: Outcome) -> None:
        report.add(part, replace(outcome, measured=measured))
        _write_pages(folder)
        print(line(part, outcome), flush=True)

    report.write()
    try:
        with tempfile.TemporaryDirectory(prefix="report-") as logs:
            run_parts(wanted, done, work=Path(logs), budget=given.budget, jobs=1)
    except KeyboardInterrupt:
        print("interrupted; the result has the parts that had ended", file=sys.stderr)
        return shutdown.exit_code
    run["seconds"] = round(time.monotonic() - started)
    report.write()
    _write_pages(folder)
    print(f"{counts(report.outcomes.values())}; {folder / PAGE}")
    return 1 if any(report.outcomes[part.name].status == FAILED for part in wanted) else 0


def _before(path: Path, quick: bool) -> dict[str, Any]:
    """Return the JSON of earlier runs; empty if they differ from this one in `--quick`."""
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if all(run["quick"] == quick for run in found["runs"]) else {}


def _others(before: dict[str, Any], parts: Sequence[Part], wanted: Sequence[Part]) -> dict[str, Outcome]:
    """Return the earlier outcomes of the parts that this run does not measure."""
    others = [part.name for part in parts if part not in wanted]
    known = before.get("parts", {})
    return {name: Outcome(**known[name]) if name in known else Outcome(NOT_AVAILABLE, NOT_ASKED) for name in others}


def _refusal(path: Path, machine: Mapping[str, Any]) -> str:
    """Return why the figures of this machine cannot go to an existing JSON; empty if they can."""
    if not path.is_file():
        return ""
    other = json.loads(path.read_text(encoding="utf-8"))["machine"]
    if all(other.get(fact) == machine[fact] for fact in ("slug", "cores")):
        return ""
    return (
        f"{path} has figures of another machine: {size(other)}; this one is {size(machine)}. Figures of two machines "
        "cannot be compared: name another folder with --output"
    )


def _write_pages(folder: Path) -> None:
    """Write a machine's page and, if its folder is among those of all machines, the index and the README's table."""
    write_page(json.loads((folder / JSON).read_text(encoding="utf-8")), folder)
    if folder.resolve().parent == MACHINES:
        write_index(MACHINES, README)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description="Measure everything that runs on a CPU."
    )
    words = (
        "folder of the page, its plots and its JSON (docs/benchmarks/CPU, with --quick benchmarks/results/CPU-quick)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help=words)
    names = [part.name for effort in (WHOLE, QUICK) for part in plan(effort, threads=1, work=WORK, quick=False)]
    words = f"parts to measure: {', '.join(KINDS)}, or a single one such as videos/half; without a name: only the page"
    parser.add_argument("--parts", nargs="*", choices=[*KINDS, *names], default=[*KINDS], metavar="PART", help=words)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side (2)")
    parser.add_argument(
        "--work", type=Path, default=WORK, metavar="DIR", help="folder of weights and bundles (build/bench)"
    )
    words = f"time limit of all parts together ({BUDGET:.0f})"
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help=words)
    parser.add_argument("--commit", default="", help="commit of this checkout, if git cannot tell")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
