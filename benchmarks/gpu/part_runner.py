"""Which part runs when: those that take times alone, the others side by side as far as cores and memory go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.gpu.parts import FAILED, NOT_AVAILABLE, OK, Outcome, Part
from benchmarks.gpu.process import Process

POLL = 0.02  # seconds
LEAST = 1.0  # seconds that must be left for a part to be begun
SHARE = 2 / 3  # of the time that is left: what one part may take of it while others wait


def run_parts(
    parts: list[Part], done: Callable[[Part, Outcome], None], *, work: Path, budget: float, jobs: int
) -> None:
    """Run every part in order of the list, as far as what they need allows.

    done: called with each part and its outcome, as soon as that is known.  work: folder for logs and outcomes.
    budget: seconds for all; each part's time limit is a share of what is left of them.
    jobs: processes at once, of parts that need not be alone.

    Whatever ends this, no process stays behind.
    """
    deadline = time.monotonic() + budget
    outcomes: dict[str, Outcome] = {}
    waiting, running = list(parts), list[Process]()

    def settle(part: Part, outcome: Outcome) -> None:
        outcomes[part.name] = outcome
        done(part, outcome)

    try:
        while waiting or running:
            for process in list(running):
                if (outcome := process.outcome()) is not None:
                    running.remove(process)
                    settle(process.part, outcome)
            for part in list(waiting):
                if any(name not in outcomes for name in part.awaits):
                    continue
                left = deadline - time.monotonic()
                if (hindrance := _hindrance(part, outcomes, left, budget)) is not None:
                    waiting.remove(part)
                    settle(part, hindrance)
                elif _may_start(part, running, jobs):
                    waiting.remove(part)
                    running.append(Process(part, work, left * SHARE if waiting or running else left))
            time.sleep(POLL)
    finally:
        for process in running:
            process.end()


def _may_start(part: Part, running: list[Process], jobs: int) -> bool:
    beside = [process.part for process in running]
    if part.alone or any(other.alone for other in beside):
        return not beside
    return len(beside) < jobs and not (part.gpu and any(other.gpu for other in beside))


def _hindrance(part: Part, outcomes: Mapping[str, Outcome], left: float, budget: float) -> Outcome | None:
    """Why the part is not to be run."""
    for name in part.unless:
        if outcomes[name].status == OK:
            return Outcome(NOT_AVAILABLE, f"not needed: {name} is ok, and this is for machines where it is not")
    for name in part.needs:
        if outcomes[name].status != OK:
            failed = f"{name} failed: " if outcomes[name].status == FAILED else ""
            return Outcome(NOT_AVAILABLE, f"{failed}{outcomes[name].reason}")
    if left < LEAST:
        return Outcome(
            NOT_AVAILABLE, f"no time is left of {budget:.0f} s: run it with a larger --budget, or with --work and "
            f"--parts {part.name}"
        )  # fmt: skip
    return None
