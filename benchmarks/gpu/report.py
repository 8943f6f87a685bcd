"""The result: one JSON file, complete after every part, and a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import FAILED, NOT_AVAILABLE, OK, Outcome, Part, write_json

SCHEMA = 1  # of the file
NOT_REACHED = "the run ended before"
Derive = Callable[[Mapping[str, Outcome]], dict[str, Any]]


class Report:
    """Collects outcomes and writes them to `path` each time. head: what stands before them in the file.

    derive: what else stands in the file, made of the outcomes.
    outcomes: of all parts, by name; those that have none yet are not available, which is so when the run is killed.
    """

    def __init__(
        self, path: Path, head: Mapping[str, Any], parts: Sequence[Part], derive: Derive | None = None
    ) -> None:
        self.path, self._head = path, {"schema": SCHEMA, **head}
        self._derive = derive or (lambda outcomes: {"comparison": comparison(outcomes)})
        self.outcomes = {part.name: Outcome(NOT_AVAILABLE, NOT_REACHED) for part in parts}

    def add(self, part: Part, outcome: Outcome) -> None:
        """Enter what came of a part, and write the file."""
        self.outcomes[part.name] = outcome
        self.write()

    def write(self, **further: Any) -> None:
        """Write the file. further: facts to stand in the head from now on."""
        self._head.update(further)
        parts = {name: outcome.to_json() for name, outcome in self.outcomes.items()}
        write_json(self.path, {**self._head, **self._derive(self.outcomes), "parts": parts})

    @property
    def failed(self) -> list[str]:
        """Names of the parts that failed."""
        return [name for name, outcome in self.outcomes.items() if outcome.status == FAILED]


def line(part: Part, outcome: Outcome) -> str:
    """One line about a part, for the terminal."""
    reason = f": {' '.join(outcome.reason.split())[:300]}" if outcome.reason else ""
    seconds = f" in {outcome.seconds:.1f} s" if outcome.seconds else ""
    return f"{part.name:34} {outcome.status}{seconds}{reason}"


def comparison(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, float]]:
    """Median seconds of every engine, of a window-step and of a video, by what was timed and by who ran it.

    Not of stages, which torch waits for and the runtime does not.
    """
    table: dict[str, dict[str, float]] = {}
    for name, outcome in outcomes.items():
        kind, _, who = name.partition("/")
        if kind not in ("timings", "torch"):
            continue
        who = name if kind == "torch" else who
        figures = outcome.figures
        for engine, times in figures.get("engines", {}).items():
            table.setdefault(engine, {})[who] = times["median"]
        if "window_step" in figures:
            table.setdefault("window_step", {})[who] = figures["window_step"]["median"]
        if "video" in figures:
            table.setdefault("video", {})[who] = figures["video"]["seconds"]["median"]
    return table


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """A comparison for people, in milliseconds, and how many times as fast as torch in eager mode each is."""
    columns = list(dict.fromkeys(who for times in rows.values() for who in times))
    lines = [f"{'milliseconds':18}" + "".join(f"{who:>28}" for who in columns)]
    for what, times in rows.items():
        base = times.get("torch/eager")
        cells = []
        for who in columns:
            seconds = times.get(who)
            ratio = "" if not base or not seconds or who == "torch/eager" else f" ({base / seconds:.2f}x)"
            cells.append(f"{'' if seconds is None else f'{1000 * seconds:.2f}{ratio}':>28}")
        lines.append(f"{what:18}" + "".join(cells))
    return "\n".join(lines)


def counts(outcomes: Iterable[Outcome]) -> str:
    """How many parts ended how."""
    found = Counter(outcome.status for outcome in outcomes)
    return ", ".join(f"{found[status]} {status}" for status in (OK, FAILED, NOT_AVAILABLE))
