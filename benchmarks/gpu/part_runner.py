"""Run parts in processes: parts that measure times run alone, the others in parallel."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.gpu.parts import FAILED, NOT_AVAILABLE, OK, Outcome, Part
from benchmarks.gpu.process import Process

POLL = 0.02  # seconds
LEAST = 1.0  # seconds that must remain to start a part
SHARE = 2 / 3  # share of the remaining time that one part may take while others wait


def run_parts(
    parts: list[Part], done: Callable[[Part, Outcome], None], *, work: Path, budget: float, jobs: int
) -> None:
    """Run parts in the order of the list, each after the parts on which it depends. No process outlives this call.

    Args:
        parts: Parts in order.
        done: Called with each part and its outcome.
        work: Folder for logs and outcomes.
        budget: Seconds for all parts; the time limit of a part is a share of the remaining time.
        jobs: Largest number of parallel processes, for parts that need not run alone.
    """
    deadline = time.monotonic() + budget
    outcomes: dict[str, Outcome] = {}
    waiting, running = list(parts), list[Process]()

    def finish(part: Part, outcome: Outcome) -> None:
        outcomes[part.name] = outcome
        done(part, outcome)

    try:
        while waiting or running:
            for process in list(running):
                if (outcome := process.outcome()) is not None:
                    running.remove(process)
                    finish(process.part, outcome)
            for part in list(waiting):
                if any(name not in outcomes for name in part.dependencies):
                    continue
                left = deadline - time.monotonic()
                if (obstacle := _obstacle(part, outcomes, left, budget)) is not None:
                    waiting.remove(part)
                    finish(part, obstacle)
                elif _may_start(part, running, jobs):
                    waiting.remove(part)
                    running.append(Process(part, work, left * SHARE if waiting or running else left))
            time.sleep(POLL)
    finally:
        for process in running:
            process.end()


def _may_start(part: Part, running: list[Process], jobs: int) -> bool:
    others = [process.part for process in running]
    if part.alone or any(other.alone for other in others):
        return not others
    return len(others) < jobs and not (part.gpu and any(other.gpu for other in others))


def _obstacle(part: Part, outcomes: Mapping[str, Outcome], left: float, budget: float) -> Outcome | None:
    """Return the outcome of a part that cannot or need not run; None if it is to run."""
    for name in part.unless:
        if outcomes[name].status == OK:
            return Outcome(NOT_AVAILABLE, f"not needed: this part replaces {name}, which is ok")
    for name in part.needs:
        if outcomes[name].status != OK:
            failed = f"{name} failed: " if outcomes[name].status == FAILED else ""
            return Outcome(NOT_AVAILABLE, f"{failed}{outcomes[name].reason}")
    if left < LEAST:
        return Outcome(
            NOT_AVAILABLE, f"the time limit of {budget:.0f} s is used up: run it with a larger --budget, or with "
            f"--work and --parts {part.name}"
        )  # fmt: skip
    return None
