"""All that is measured on a CPU, as one page with tables and plots and a JSON beside it.

    python -m benchmarks.report --output docs/benchmarks            # all of it, an hour on two idle cores
    python -m benchmarks.report --quick --output /tmp/quick         # small sizes: whether all of it runs
    python -m benchmarks.report --output docs/benchmarks --parts live memory      # these anew, the others as they are
    python -m benchmarks.report --output docs/benchmarks --parts    # nothing anew: the page from its JSON

Every part is measured in a process of its own with a time limit, alone. The JSON and the page are written after each,
so that what was measured is kept whatever happens; a part that failed, or was not reached, says so in the page. Parts
that are not asked for keep what the JSON in the output's folder has of them. `benchmarks/README.md` says what is
measured and how. The exit code is 1 if a part failed, and 130 after Ctrl-C; else 0.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cpu.effort import QUICK, WHOLE
from benchmarks.gpu.machine import describe, file_stem
from benchmarks.gpu.part_runner import run_parts
from benchmarks.gpu.parts import FAILED, NOT_AVAILABLE, Outcome, Part
from benchmarks.gpu.plan import select
from benchmarks.gpu.report import Report, counts, line
from benchmarks.page.plan import KINDS, plan
from benchmarks.page.render import PAGE, goals, write_page
from vexpress_rt.utils.signals import GracefulShutdown

RESULTS = Path(__file__).parent / "results"
WORK = Path(__file__).parents[1] / "build" / "bench"
JSON = "benchmarks.json"
NOT_ASKED = "no run was asked for it (--parts)"
BUDGET = 5400.0  # seconds: no part may hang for longer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    given = _parse(arguments)
    if not given.parts:
        if given.output is None or not (given.output / JSON).is_file():
            print("there is no JSON to make the page from: name its folder with --output", file=sys.stderr)
            return 2
        _write_page(given.output)
        return 0
    with GracefulShutdown():
        return _measure(given)


def _measure(given: argparse.Namespace) -> int:
    started, machine = time.monotonic(), describe({"commit": given.commit}, lambda figures: None)
    now = datetime.datetime.now(datetime.UTC)
    folder = given.output or RESULTS / f"{file_stem({**machine, 'gpu': None})}-{now.date()}"
    folder.mkdir(parents=True, exist_ok=True)
    given.work.mkdir(parents=True, exist_ok=True)
    parts = plan(QUICK if given.quick else WHOLE, threads=given.threads, work=given.work.resolve(), quick=given.quick)
    wanted, before = select(parts, given.parts), _before(folder / JSON, given.quick)
    run = {
        "started": now.isoformat(timespec="seconds"), "cpu": machine["cpu"], "commit": machine["commit"],
        "parts": given.parts, "quick": given.quick, "threads": given.threads,
    }  # fmt: skip
    head = {"machine": machine, "runs": [*before.get("runs", []), run]}
    report = Report(folder / JSON, head, parts, goals)
    report.outcomes |= _others(before, parts, wanted)

    measured = {name: run[name] for name in ("started", "commit", "cpu")}

    def done(part: Part, outcome: Outcome) -> None:
        report.add(part, replace(outcome, measured=measured))
        _write_page(folder)
        print(line(part, outcome), flush=True)

    report.write()
    try:
        with tempfile.TemporaryDirectory(prefix="report-") as logs:
            run_parts(wanted, done, work=Path(logs), budget=given.budget, jobs=1)
    except KeyboardInterrupt:
        print("interrupted; what was done until then is in the result", file=sys.stderr)
        return 130
    run["seconds"] = round(time.monotonic() - started)
    report.write()
    _write_page(folder)
    print(f"{counts(report.outcomes.values())}; {folder / PAGE}")
    return 1 if any(report.outcomes[part.name].status == FAILED for part in wanted) else 0


def _before(path: Path, quick: bool) -> dict[str, Any]:
    """What earlier runs left; nothing of those that were quick where this one is not, or the other way round."""
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if all(run["quick"] == quick for run in found["runs"]) else {}


def _others(before: dict[str, Any], parts: Sequence[Part], wanted: Sequence[Part]) -> dict[str, Outcome]:
    """Of the parts that are not measured now: what an earlier run has of them, or that there is nothing."""
    others = [part.name for part in parts if part not in wanted]
    known = before.get("parts", {})
    return {name: Outcome(**known[name]) if name in known else Outcome(NOT_AVAILABLE, NOT_ASKED) for name in others}


def _write_page(folder: Path) -> None:
    write_page(json.loads((folder / JSON).read_text(encoding="utf-8")), folder)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="What is measured on a CPU.")
    words = "folder of the page, its plots and its JSON (benchmarks/results/MACHINE-DATE)"
    parser.add_argument("--output", type=Path, metavar="DIR", help=words)
    names = [part.name for effort in (WHOLE, QUICK) for part in plan(effort, threads=1, work=WORK, quick=False)]
    words = f"these alone, of {', '.join(KINDS)}, or a single one such as videos/half; none: the page"
    parser.add_argument("--parts", nargs="*", choices=[*KINDS, *names], default=[*KINDS], metavar="PART", help=words)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU, for each side (2)")
    parser.add_argument("--work", type=Path, default=WORK, metavar="DIR", help="of weights and bundles (build/bench)")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help=f"for all ({BUDGET:.0f})")
    parser.add_argument("--commit", default="", help="commit of this checkout, where git does not know it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
