"""Make synthetic weights and bundles, which the other parts run."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import CheckFailedError, Figures, ReportFigures
from vexpress_rt.backends.registry import find_provider
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.target import TARGETS

SEED = 0
LINES = 60  # number of lines of a build's output in its figures


def make_weights(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Write a checkpoint directory of synthetic weights.

    An existing folder is complete, because it appears only at the end, and is used as it is.

    Args:
        options: {preset; weights: folder to write}.
        report: Not called.
    """
    del report
    from export.checkpoint.presets import PRESETS
    from export.checkpoint.synthetic import write_synthetic_checkpoint

    folder = Path(options["weights"])
    reused = folder.exists()
    if not reused:
        write_synthetic_checkpoint(folder, PRESETS[options["preset"]], SEED)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"bytes": size, "reused": reused, **_peak(resource.RUSAGE_SELF)}


def build(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Build a bundle with `python -m export.build`.

    Args:
        options: {weights, bundle: folders; target, precision; height, width, frames; provider: the bundle's provider;
            engines: optional, the names of the engines to build}.
        report: Called with the figures so far.

    Raises:
        BackendMissingError: A library is not installed.
        CheckFailedError: The build fails.
    """
    figures = {"library": require(options["provider"], options["target"])}
    report(figures)
    names = ("weights", "target", "precision", "height", "width", "frames")
    flags = [text for name in names for text in (f"--{name}", str(options[name]))]
    if "engines" in options:
        flags += ["--engine", *options["engines"]]
    command = [sys.executable, "-m", "export.build", *flags, "--output", options["bundle"]]
    answer = subprocess.run(command, capture_output=True, text=True)
    print(answer.stderr, file=sys.stderr)
    figures |= {"report": answer.stdout.splitlines()[-LINES:], **_peak(resource.RUSAGE_CHILDREN)}
    if answer.returncode:
        report(figures)
        said = answer.stderr.strip().splitlines() or ["no message"]
        raise CheckFailedError(f"`{' '.join(command[1:])}` ended with exit code {answer.returncode}: {said[-1]}")
    files = Bundle.open(options["bundle"]).manifest.files
    return figures | {"bytes": {name: entry.bytes for name, entry in files.items()}}


def require(provider: str, target: str) -> str:
    """Return name and version of the library that runs bundles for a target.

    Raises:
        BackendMissingError: The library, or one that builds engines for it, is not installed.
    """
    runs = find_provider(provider)
    runs.check_installed(target)
    if TARGETS[target].compiled:
        with tensorrt_library.load(target).polygraphy():  # builds the plans
            pass
    return runs.describe_library(target)


def _peak(who: int) -> dict[str, int]:
    return {"peak_memory_bytes": resource.getrusage(who).ru_maxrss * 1024}


def folder_name(text: str) -> str:
    """Return a folder name for the name of a part or runtime."""
    return re.sub(r"[^\w.-]", "-", text)
