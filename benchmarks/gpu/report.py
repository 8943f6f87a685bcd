"""The result: one JSON file, rewritten after every part, and a table for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import FAILED, NOT_AVAILABLE, OK, Outcome, Part, write_json

SCHEMA = 1  # version of the file's structure
NOT_REACHED = "the run ended before this part"
Derive = Callable[[Mapping[str, Outcome]], dict[str, Any]]


class Report:
    """A collection of outcomes that is written to a file after each one.

    Args:
        path: File to write.
        head: Entries of the file before the outcomes.
        parts: All parts.
        derive: Returns further entries from the outcomes; None for `comparison`.

    Attributes:
        outcomes: Outcomes of all parts by name; NOT_AVAILABLE until a part ends, in case the run is killed before.
    """

    def __init__(
        self, path: Path, head: Mapping[str, Any], parts: Sequence[Part], derive: Derive | None = None
    ) -> None:
        self.path, self._head = path, {"schema": SCHEMA, **head}
        self._derive = derive or (lambda outcomes: {"comparison": comparison(outcomes)})
        self.outcomes = {part.name: Outcome(NOT_AVAILABLE, NOT_REACHED) for part in parts}

    def add(self, part: Part, outcome: Outcome) -> None:
        """Add the outcome of a part, and write the file."""
        self.outcomes[part.name] = outcome
        self.write()

    def write(self, **further: Any) -> None:
        """Write the file, with further entries of the head."""
        self._head.update(further)
        parts = {name: outcome.to_json() for name, outcome in self.outcomes.items()}
        write_json(self.path, {**self._head, **self._derive(self.outcomes), "parts": parts})

    @property
    def failed(self) -> list[str]:
        """Names of the parts that failed."""
        return [name for name, outcome in self.outcomes.items() if outcome.status == FAILED]


def line(part: Part, outcome: Outcome) -> str:
    """Return a line about a part for the terminal."""
    reason = f": {' '.join(outcome.reason.split())[:300]}" if outcome.reason else ""
    seconds = f" in {outcome.seconds:.1f} s" if outcome.seconds else ""
    return f"{part.name:34} {outcome.status}{seconds}{reason}"


def comparison(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, float]]:
    """Return the median seconds of every engine, of a window-step and of a video, by name and runtime.

    Stages are left out: PyTorch synchronizes at their ends, and the runtime does not.
    """
    table: dict[str, dict[str, float]] = {}
    for name, outcome in outcomes.items():
        kind, _, runtime = name.partition("/")
        if kind not in ("timings", "torch"):
            continue
        runtime = name if kind == "torch" else runtime
        figures = outcome.figures
        for engine, times in figures.get("engines", {}).items():
            table.setdefault(engine, {})[runtime] = times["median"]
        if "window_step" in figures:
            table.setdefault("window_step", {})[runtime] = figures["window_step"]["median"]
        if "video" in figures:
            table.setdefault("video", {})[runtime] = figures["video"]["seconds"]["median"]
    return table


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return a `comparison` as text: milliseconds, and the speed-up over PyTorch in eager mode."""
    columns = list(dict.fromkeys(runtime for times in rows.values() for runtime in times))
    lines = [f"{'milliseconds':18}" + "".join(f"{runtime:>28}" for runtime in columns)]
    for what, times in rows.items():
        base = times.get("torch/eager")
        cells = []
        for runtime in columns:
            seconds = times.get(runtime)
            ratio = "" if not base or not seconds or runtime == "torch/eager" else f" ({base / seconds:.2f}x)"
            cells.append(f"{'' if seconds is None else f'{1000 * seconds:.2f}{ratio}':>28}")
        lines.append(f"{what:18}" + "".join(cells))
    return "\n".join(lines)


def counts(outcomes: Iterable[Outcome]) -> str:
    """Return the number of parts by status, as text."""
    found = Counter(outcome.status for outcome in outcomes)
    return ", ".join(f"{found[status]} {status}" for status in (OK, FAILED, NOT_AVAILABLE))
