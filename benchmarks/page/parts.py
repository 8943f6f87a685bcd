"""The functions of the report's parts; each runs in its own process and reports figures to `benchmarks.gpu`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import CheckFailedError, Figures, ReportFigures

MEMORY_FPS, MEMORY_STEPS = 5, 2  # few, because only memory is measured
COLLECTOR = "figure-collector"  # name of the plugin to which suites report figures


class FigureCollector:
    """A pytest plugin that collects the figures and failures of a suite."""

    __name__ = COLLECTOR

    def __init__(self, report: ReportFigures) -> None:
        self.rows: list[Figures] = []
        self.failures: list[str] = []
        self._report = report

    def add(self, name: str, figures: Figures) -> None:
        """Add the figures of one test."""
        self.rows.append({"test": name, **figures})
        self._report({"rows": self.rows})

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep the last line of a failure."""
        if report.failed:
            said = getattr(report.longrepr, "reprcrash", None)
            self.failures.append(f"{report.nodeid}: {said.message if said else report.longrepr}")


def suite(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Run a suite.

    Args:
        options: {arguments: of pytest}.
        report: Called with the figures so far.

    Raises:
        CheckFailedError: Tests failed; the message names them.
    """
    import pytest
    import pytest_benchmark  # noqa: F401  # so that the error names it if it is missing

    collector = FigureCollector(report)
    code = pytest.main(["-q", "-p", "no:cacheprovider", *options["arguments"]], plugins=[collector])
    if code != pytest.ExitCode.OK:
        raise CheckFailedError("; ".join(collector.failures)[:2000] or f"pytest ended with {code!r}")
    return {"rows": collector.rows}


def prepare(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Make weights and bundle of a model; return their bytes. Options: {model: its name; work: folder}."""
    del report
    from benchmarks.cpu.models import MODELS

    model, work = MODELS[options["model"]], Path(options["work"])
    model.prepare(work, print)
    folders = {"weights": model.weights(work), "bundle": model.bundle(work)}
    return {name: sum(path.stat().st_size for path in f.rglob("*") if path.is_file()) for name, f in folders.items()}


def quality(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Measure the table of presets. Options: {threads; people; seconds; reference_steps}."""
    from benchmarks import quality as module

    return module.part({"bundle": None, **options}, report)


def precision(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Measure the shipped model's precisions. Options: {threads; people; seconds; rounds}."""
    from benchmarks import quality as module

    return module.precision_part({"bundle": None, **options}, report)


def memory(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Measure the peak memory of videos by the length of their speech. Options: {minutes: the lengths}."""
    from benchmarks.memory import measure
    from vexpress_rt.bundle.default_bundle import shipped_bundle

    rows: list[Figures] = []
    for minutes in options["minutes"]:
        made = measure(shipped_bundle(), minutes, MEMORY_FPS, MEMORY_STEPS, write=False)
        rows.append({"minutes": minutes, **made})
        report({"rows": rows})
    return {"rows": rows, "fps": MEMORY_FPS, "steps": MEMORY_STEPS}


def command(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Run a benchmark that is a command of its own and writes its figures with --json.

    Args:
        options: {module; flags}.
        report: Not called.

    Raises:
        CheckFailedError: The command failed; the message has the last line of its stderr.
    """
    del report
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        path = Path(folder) / "figures.json"
        line = [sys.executable, "-m", options["module"], *options["flags"], "--json", str(path)]
        answer = subprocess.run(line, stderr=subprocess.PIPE, text=True)
        print(answer.stderr, file=sys.stderr)
        if answer.returncode:
            said = answer.stderr.strip().splitlines() or ["no message"]
            raise CheckFailedError(f"`{shlex.join(line[1:-2])}` ended with exit code {answer.returncode}: {said[-1]}")
        figures: Figures = json.loads(path.read_text(encoding="utf-8"))
    return figures
