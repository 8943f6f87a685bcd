"""Parts of a check that succeed or fail in several ways; `benchmarks.gpu` runs them in processes."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import Figures, NotAvailableError, ReportFigures
from vexpress_rt.errors import BackendMissingError

Options = Mapping[str, Any]


def fine(options: Options, report: ReportFigures) -> Figures:
    return {"given": dict(options)}


def lacking(options: Options, report: ReportFigures) -> Figures:
    raise NotAvailableError("the moon is not out")


def library_missing(options: Options, report: ReportFigures) -> Figures:
    raise BackendMissingError("no such library: install it")


def package_missing(options: Options, report: ReportFigures) -> Figures:
    importlib.import_module(options["module"])
    return {}


def raising(options: Options, report: ReportFigures) -> Figures:
    report({"so_far": 1})
    print("about to go wrong")
    raise ValueError("seven is not even")


def crashing(options: Options, report: ReportFigures) -> Figures:
    report({"so_far": 2})
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def crashing_at_exit(options: Options, report: ReportFigures) -> Figures:
    import atexit

    atexit.register(os.kill, os.getpid(), signal.SIGKILL)
    return {"so_far": 3}


def leaving(options: Options, report: ReportFigures) -> Figures:
    os._exit(4)


def hanging(options: Options, report: ReportFigures) -> Figures:
    """Never end. Options: {pids: file for the process ids of this process and of a child}."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    report({"so_far": 4})
    Path(options["pids"]).write_text(json.dumps([os.getpid(), child.pid]))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


def waiting(options: Options, report: ReportFigures) -> Figures:
    """Sleep; return the times of begin and end on a clock that all processes share.

    Args:
        options: {seconds: duration; arrive: optional file to create first; meet: optional files, of which one must
            appear within a minute before the sleep}.
        report: Not called.
    """
    began = time.monotonic()
    if "arrive" in options:
        Path(options["arrive"]).touch()
    while options.get("meet") and not any(Path(file).exists() for file in options["meet"]):
        if time.monotonic() > began + 60:
            raise TimeoutError("no other part runs at the same time")
        time.sleep(0.01)
    time.sleep(options["seconds"])
    return {"began": began, "ended": time.monotonic()}


def reading(options: Options, report: ReportFigures) -> Figures:
    """Return the status of every part in the result file while this one runs."""
    parts = json.loads(Path(options["result"]).read_text())["parts"]
    return {"seen": {name: outcome["status"] for name, outcome in parts.items()}}


# For tests that call a part in their own process.


def ignore(figures: Figures) -> None:
    """Ignore the figures so far."""


def options_of(bundle: Path, **more: Any) -> dict[str, Any]:
    """Return options of a part that runs a bundle on the CPU and compares it with itself."""
    return {"bundle": str(bundle), "reference": str(bundle), "provider": "cpu", "target": "onnxruntime", **more}
