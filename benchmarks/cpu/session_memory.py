"""Measure the peak memory of engines in ONNX Runtime with given options, in a process of their own. Linux only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.memory import peak
from vexpress_rt.backends.onnxruntime.engine import cpu_options

RUNS = 3  # of each engine in turn; memory that is not reused grows with them


@dataclass(frozen=True)
class Sessions:
    """Engines in one process.

    Attributes:
        engines: ONNX files, which run in this order; their inputs have fixed shapes.
        entries: Entries of the sessions' configuration, in addition to the runtime's.
        attributes: Attributes of SessionOptions.
    """

    engines: Sequence[str]
    entries: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def peak(self, threads: int) -> int:
        """Return the bytes of memory that loading and RUNS runs of the engines add to a process, at their peak."""
        line = [sys.executable, "-m", "benchmarks.cpu.session_memory", json.dumps(asdict(self)), str(threads)]
        return int(subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _measure(sessions: Sessions, threads: int) -> int:
    before = peak()
    loaded = [_load(path, sessions, threads) for path in sessions.engines]
    feeds = [_feed(session) for session in loaded]
    for _ in range(RUNS):
        for session, feed in zip(loaded, feeds, strict=True):
            session.run(None, feed)
    return peak() - before


def _load(path: str, sessions: Sessions, threads: int) -> Any:
    options = cpu_options(onnxruntime, threads)
    for name, value in sessions.entries.items():
        options.add_session_config_entry(name, value)
    for name, value in sessions.attributes.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(str(Path(path)), options, providers=["CPUExecutionProvider"])


def _feed(session: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    dtypes = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
    return {tensor.name: rng.random(tensor.shape).astype(dtypes[tensor.type]) for tensor in session.get_inputs()}


if __name__ == "__main__":
    onnxruntime.set_default_logger_severity(3)
    print(_measure(Sessions(**json.loads(sys.argv[1])), int(sys.argv[2])))
