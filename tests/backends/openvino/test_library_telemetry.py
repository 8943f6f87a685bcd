"""OpenVINO sends and stores no telemetry: a real process, whose home folder, sockets and processes are watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

_WATCHED = """
import json, os, sys
seen = []
def watch(event, arguments):
    if event.startswith("socket.") or event in ("os.fork", "os.posix_spawn", "os.exec", "subprocess.Popen"):
        seen.append(event)
        if event.startswith("socket."):
            raise OSError("the test allows no network")
sys.addaudithook(watch)
RUN
files = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
links = [os.readlink(file) for file in files if os.path.lexists(file)]  # that of the listing itself is gone
print(json.dumps(seen + [link for link in links if link.startswith("socket:")]))
"""
_VIDEO = """
import numpy as np
from vexpress_rt import GenerationConfig, Generator
photo, speech = np.zeros((64, 64, 3), np.uint8), (np.zeros(4000, np.float32), 16000)
with Generator(provider="openvino") as generator:
    generator.prepare(photo)  # runs the face detector, which finds none
    portrait = generator.prepare(photo, keypoints=[[20, 30], [44, 30], [32, 40]])
    assert generator.generate(portrait, speech, config=GenerationConfig(steps=1, fps=8)).length == 2
"""


def watch(code: str, home: Path) -> tuple[list[str], list[str]]:
    """Return the names of files that a process left in its home folder, and the calls and sockets that it made."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    for name in ("CI", "GITHUB_ACTIONS", "TF_BUILD", "JENKINS_URL"):  # with these OpenVINO sends nothing anyway
        usual.pop(name, None)
    environment = {**usual, "HOME": str(home), "TMPDIR": str(home), "VEXPRESS_RT_CACHE_DIR": str(home / "cache")}
    command = [sys.executable, "-c", _WATCHED.replace("RUN", code)]
    finished = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    found = {path.relative_to(home).parts[0] for path in home.rglob("*")}
    return sorted(found), json.loads(finished.stdout.splitlines()[-1])


def test_a_video_leaves_nothing_at_home_and_opens_no_socket(tmp_path: Path) -> None:
    files, calls = watch(_VIDEO, tmp_path)
    assert set(files) <= {"cache"}
    assert calls == []


def test_the_watch_notices_files_and_sockets(tmp_path: Path) -> None:
    files, _ = watch("import openvino", tmp_path)
    assert files == ["intel"]
    for code in ("socket.socket()", "socket.getaddrinfo('localhost', 1)"):
        _, calls = watch(f"import contextlib, socket\nwith contextlib.suppress(OSError):\n    {code}", tmp_path)
        assert len(calls) == 1


def test_telemetry_that_other_code_imported_is_left_alone() -> None:
    code = (
        "import sys, types\n"
        "sys.modules['openvino_telemetry'] = own = types.ModuleType('openvino_telemetry')\n"
        "sys.modules['openvino'] = types.SimpleNamespace(__version__='2026.4.1')\n"
        "from vexpress_rt.backends.openvino import library\n"
        "library.import_library()\n"
        "sys.exit(sys.modules['openvino_telemetry'] is not own)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
