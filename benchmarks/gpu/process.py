"""Run one part in a process with a time limit; end it together with the processes that it started."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import FAILED, Outcome, Part, write_json

ROOT = Path(__file__).parents[2]
LOG_LENGTH = 3000  # characters of a failed part's log that go into the result
GRACE = 5.0  # seconds from SIGTERM to SIGKILL


class Process:
    """A running part.

    Args:
        part: The part to run.
        work: Folder for its task, log and outcome.
        limit: Time limit in seconds.
    """

    def __init__(self, part: Part, work: Path, limit: float) -> None:
        self.part, self.limit = part, limit
        name = re.sub(r"[^\w.-]", "-", part.name)
        self._log, self._outcome = work / f"{name}.log", work / f"{name}.outcome"
        self._outcome.unlink(missing_ok=True)
        task = work / f"{name}.task"
        write_json(task, {"function": part.function, "options": part.options})
        self._started = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu", str(task)],
                cwd=ROOT,
                env=environment(part.folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that its children can be ended with it
            )

    def outcome(self) -> Outcome | None:
        """Return the outcome of the part, None while it runs."""
        seconds = time.monotonic() - self._started
        if self._process.poll() is None:
            if seconds < self.limit:
                return None
            self.end()
            return self._failed(f"it exceeded its time limit of {self.limit:.0f} s", seconds)
        self._end_group()
        reported, code = self._reported(), self._process.returncode
        if "status" in reported and code == 0:
            return Outcome(**reported, log=self._tail() if reported["status"] == FAILED else "")
        why = f"killed by {_signal(-code)}" if code < 0 else f"its process ended with exit code {code}"
        return self._failed(why + (", after it had finished" if "status" in reported else ""), seconds)

    def end(self) -> None:
        """End the process and its children, with SIGKILL after GRACE seconds.

        A process that hangs in the driver may remain.
        """
        self._signal_group(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        self._end_group()

    def _end_group(self) -> None:
        self._signal_group(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _failed(self, why: str, seconds: float) -> Outcome:
        return Outcome(FAILED, why, self._reported().get("figures", {}), seconds, self._tail())

    def _reported(self) -> dict[str, Any]:
        try:
            reported: dict[str, Any] = json.loads(self._outcome.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return reported

    def _tail(self) -> str:
        return self._log.read_bytes()[-LOG_LENGTH:].decode(errors="replace").strip()


def environment(folder: str | None = None) -> dict[str, str]:
    """Return the environment of a part: its PYTHONPATH is `folder`, this checkout, and the current PYTHONPATH."""
    places = [*([folder] if folder else []), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places)), "PYTHONUNBUFFERED": "1"}


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
