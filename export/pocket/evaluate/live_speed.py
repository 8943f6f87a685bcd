"""The speed of live mode, as measured by `python -m benchmarks.live --json FILE`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import ExportError

_LARGEST = 1 << 20  # bytes of a report
_SETTINGS = ("steps", "sampler", "guidance_scale", "overlap", "look_ahead")


@dataclass(frozen=True)
class LiveSpeed:
    """The speed of live mode.

    Attributes:
        rate: Frames per second, sustained.
        latency: Seconds from the arrival of a chunk of sound to its first frame, median.
        fps: Frames per second at which the latency was measured.
        settings: Options of the session, in words.
        machine: The machine, in words.
    """

    rate: float
    latency: float
    fps: float
    settings: str
    machine: str


def read_live_speed(path: Path) -> LiveSpeed:
    """Read a report of `benchmarks.live`.

    Args:
        path: The JSON file.

    Raises:
        ExportError: The file cannot be read, or is no such report with the speed in it.
    """
    try:
        if (size := path.stat().st_size) > _LARGEST:
            raise ValueError(f"it has {size} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        asked = found["asked"]
        settings = {**found["settings"], "look_ahead": asked["look_ahead"]}
        return LiveSpeed(
            rate=_number(found["sustained_fps"]),
            latency=_number(found["clock"]["latency_s"]["p50"]),
            fps=_number(found["clock"]["fps"]),
            settings=", ".join(f"{name} {settings[name]}" for name in _SETTINGS),
            machine=_machine(found["machine"], asked["threads"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExportError(
            f"{path} is no report of the speed of live mode ({type(error).__name__}: {error}); expected the file of "
            "`python -m benchmarks.live --json FILE` with --minutes above 0"
        ) from None


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _machine(machine: Mapping[str, Any], threads: int | None) -> str:
    cores = int(_number(machine["cores"]))
    name = str(machine["cpu"])
    return f"{cores if threads is None else threads} threads on {cores} cores of {name}"
