"""A part of the check, and the outcome that its process reports."""

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
Figures = dict[str, Any]  # measurements: values that JSON can hold, and NumPy numbers
ReportFigures = Callable[[Figures], None]  # keeps the figures so far, so that a crash loses only later ones


class NotAvailableError(Exception):
    """This machine lacks something that a part needs; the message names it."""


class CheckFailedError(Exception):
    """A part's figures are wrong; the message names them."""


@dataclass(frozen=True)
class Part:
    """A part of the check, which runs in a process of its own.

    Attributes:
        name: `KIND/WHAT`.
        function: `module:name`, called with (options, report); returns figures or raises.
        options: Its first argument, of values that JSON can hold.
        alone: Whether no other part may run meanwhile, because this one measures times.
        gpu: Whether it uses the GPU; only one such part runs at a time.
        needs: Names of parts that must have ended ok.
        unless: Names of parts of which none may have ended ok: this one replaces them.
        folder: Folder to put first on Python's path.
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
    def dependencies(self) -> tuple[str, ...]:
        """Names of all parts whose outcomes must be known first."""
        return (*self.needs, *self.unless)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a part.

    Attributes:
        status: OK, FAILED or NOT_AVAILABLE.
        reason: Reason of a status other than OK.
        figures: Measurements.
        seconds: Duration.
        log: Last output of its process, for a failed part.
        measured: Date, commit and processor of the measurement, in a report of several runs.
    """

    status: str
    reason: str = ""
    figures: Figures = field(default_factory=dict)
    seconds: float = 0.0
    log: str = ""
    measured: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are not empty."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value not in ("", {})}


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically: a process that is killed meanwhile leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(json.dumps(plain(data), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Convert a value for JSON: NumPy numbers become Python's, floats keep six digits, NaN and infinity become text."""
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
