"""Command-line options that the measurements of live mode share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SPEECH = Path(__file__).parents[2] / "demo" / "speech.flac"
_OPTIONS = {"preset": str, "sampler": str, "steps": int, "guidance-scale": float, "overlap": int, "fps": float}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of bundle, speech and session, and that of the file to write."""
    add = parser.add_argument
    add("--bundle", type=Path, help="bundle (the one that ships)")
    add("--audio", type=Path, default=SPEECH, help="recording of the speech (demo/speech.flac)")
    add("--provider", default="auto", help="provider of the engines (auto)")
    add("--threads", type=int, help="CPU threads (one per core)")
    for flag, kind in _OPTIONS.items():
        add(f"--{flag}", type=kind, help="as of vexpress-rt generate (as the bundle recommends for live sessions)")
    add("--json", type=Path, help="file to write the result to")


def chosen_options(given: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `GenerationConfig` that were given."""
    return {name: getattr(given, name) for name in (flag.replace("-", "_") for flag in _OPTIONS)}
