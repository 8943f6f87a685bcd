"""What a part of the check is, and how the process that does it says what came of it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OK, FAILED, NOT_AVAILABLE = "ok", "failed", "not available"
Figures = dict[str, Any]  # what was measured; of what JSON has, and NumPy's numbers
ReportFigures = Callable[[Figures], None]  # keeps figures so far, so that a crash loses only what comes after


class NotAvailableError(Exception):
    """This machine lacks what a part needs. The message says what."""


class CheckFailedError(Exception):
    """A part's figures are not as they should be. The message says which."""


@dataclass(frozen=True)
class Part:
    """Something to do, in a process of its own.

    name: `KIND/WHAT`.  function: `module:name`, called with (options, report); it gives figures or raises.
    options: its first argument, of what JSON has.
    alone: nothing may run beside it, because it takes times.  gpu: it uses the GPU, so one such at a time.
    needs: parts that must have ended ok.  unless: parts that, when one of them ended ok, make this one superfluous.
    folder: put before all others where Python looks for packages.
    """

    name: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    gpu: bool = False
    needs: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    folder: str | None = None

    @property
    def awaits(self) -> tuple[str, ...]:
        """All parts that have to be settled first."""
        return (*self.needs, *self.unless)


@dataclass(frozen=True)
class Outcome:
    """What came of a part.

    status: OK, FAILED or NOT_AVAILABLE.  reason: why, unless it is OK.  seconds: that it took.
    log: the end of what its process printed, where that may explain a failure.
    measured: when and of what, in a report that keeps parts of several runs.
    """

    status: str
    reason: str = ""
    figures: Figures = field(default_factory=dict)
    seconds: float = 0.0
    log: str = ""
    measured: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What is not empty."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value not in ("", {})}


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replace `path` as a whole, so that whoever is killed meanwhile leaves the old file or the new one."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        aside.write_text(json.dumps(plain(data), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """`value` as JSON has it: NumPy's numbers become Python's, floats keep six digits, what is not finite is text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float):
        return float(f"{number:.6g}") if math.isfinite(number) else str(number)
    return number if isinstance(number, (bool, int)) else str(number)
