"""Run one part: `python -m benchmarks.gpu TASK`, where TASK is a JSON file; writes the outcome beside it."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import FAILED, NOT_AVAILABLE, OK, Figures, NotAvailableError, write_json
from vexpress_rt.errors import BackendMissingError

OURS = ("benchmarks", "export", "tests", "vexpress_rt")  # a missing module of this repository is a failure


def main(task: Path) -> int:
    """Run the part that a task file describes and write its outcome beside it.

    Args:
        task: JSON file: {"function": "module:name", "options": {...}}.

    Returns:
        0; the outcome says whether the part succeeded.
    """
    faulthandler.enable()
    _prefer_for_oom_kill()
    given, outcome = json.loads(task.read_text(encoding="utf-8")), task.with_suffix(".outcome")
    kept: dict[str, Any] = {"figures": {}}

    def report(figures: Figures) -> None:
        kept["figures"] = figures
        write_json(outcome, kept)

    started = time.perf_counter()
    try:
        module, _, name = given["function"].partition(":")
        report(getattr(importlib.import_module(module), name)(given["options"], report))
        status, reason = OK, ""
    except (NotAvailableError, BackendMissingError) as error:
        status, reason = NOT_AVAILABLE, str(error)
    except Exception as error:  # any exception of a part is its result
        traceback.print_exc()
        missing = isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] not in OURS
        status, reason = (NOT_AVAILABLE if missing else FAILED), f"{type(error).__name__}: {error}"[:2000]
    write_json(outcome, kept | {"status": status, "reason": reason, "seconds": time.perf_counter() - started})
    return 0


def _prefer_for_oom_kill() -> None:
    """Make the kernel kill this process first when memory runs out, not the parent, which holds the results."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
