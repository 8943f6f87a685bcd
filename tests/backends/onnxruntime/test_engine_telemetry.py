"""ONNX Runtime sends and stores no telemetry; the user's own setting is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from vexpress_rt.bundle.default_bundle import shipped_bundle

_LOADED = """
import os, sys
from vexpress_rt.backends.onnxruntime.engine import load
load(sys.argv[1], None).close()
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


_CHECKED = """
import os, sys
from pathlib import Path
from export.build.parity import run_onnx
from vexpress_rt.bundle.bundle import Bundle
import numpy as np
path = Path(sys.argv[1])
spec = Bundle.open(path.parent).specs["vae_decoder"]
run_onnx(path, spec, [np.zeros(spec.inputs[0].shape, np.float32)])
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


def _load(home: Path, code: str = _LOADED, **variables: str) -> str:
    """Return the variable after an engine was loaded in a process of a user with the folder `home`."""
    usual = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    for name in ("CI", "GITHUB_ACTIONS"):  # with these it sends no telemetry anyway
        usual.pop(name, None)
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "TMPDIR": str(home)}
    command = [sys.executable, "-c", code, str(shipped_bundle() / "vae_decoder.onnx")]
    told = subprocess.run(command, env={**usual, **own, **variables}, capture_output=True, text=True, check=True)
    return told.stdout.strip()


def test_loading_an_engine_leaves_no_identifier_and_no_queue(tmp_path: Path) -> None:
    assert _load(tmp_path) == "1"
    assert list(tmp_path.rglob("*")) == []


def test_checking_an_engine_as_it_is_built_leaves_none_either(tmp_path: Path) -> None:
    assert _load(tmp_path, _CHECKED) == "1"
    assert list(tmp_path.rglob("*")) == []


def test_what_the_user_chose_stays(tmp_path: Path) -> None:
    assert _load(tmp_path, ORT_DISABLE_TELEMETRY="true") == "true"
