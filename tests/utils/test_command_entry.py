"""Commands without standard streams, with Ctrl-C during imports, and without the libraries of export."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import wave
from io import StringIO
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from tests.support.paths import ROOT
from vexpress_rt.__main__ import main
from vexpress_rt.cli import terminal
from vexpress_rt.utils import command_entry, signals

VIDEO = [
    "generate", "--image", "photo.png", "--image-keypoints", "34,40", "62,40", "48,58", "--audio", "speech.wav",
    "--output", "out.mp4", "--steps", "1",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the inputs of VIDEO."""
    Image.new("RGB", (96, 96), (90, 90, 90)).save(tmp_path / "photo.png")
    with wave.open(str(tmp_path / "speech.wav"), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(bytes(9600))
    return tmp_path


def frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_video_is_made_without_standard_streams(folder: Path, closed: str) -> None:
    command = f'exec "$0" -m vexpress_rt "$@" {closed}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, *VIDEO], cwd=folder, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert frames(folder / "out.mp4") == 8
    assert sorted(path.name for path in folder.iterdir()) == ["out.mp4", "photo.png", "speech.wav"]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["inspect"]])
def test_output_without_a_stream_is_dropped(arguments: list[str]) -> None:
    command = ["sh", "-c", 'exec "$0" -m vexpress_rt "$@" >&- 2>&-', sys.executable, *arguments]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_wrong_usage_keeps_its_exit_code_without_stderr() -> None:
    command = ["sh", "-c", 'exec "$0" -m vexpress_rt bogus 2>&-', sys.executable]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 2


class _OnlyWrites:
    """An object that some programs use as sys.stderr."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def _closed() -> StringIO:
    stream = StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    "stream", [lambda: None, _closed, _OnlyWrites], ids=["None", "closed", "an object that writes"]
)
def test_a_program_without_streams_may_call_the_command_line(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    monkeypatch.setattr(sys, "stdout", stream())
    monkeypatch.setattr(sys, "stderr", stream())
    assert main(["inspect"]) == 0
    assert main(["inspect", "--verify"]) == 0
    assert main(["inspect", "nowhere"]) == 1


def test_missing_descriptors_lead_to_the_null_device() -> None:
    """Files that are opened later do not get the descriptor of stderr."""
    code = (
        "from vexpress_rt.utils import command_entry; import os;"
        "command_entry.open_standard_streams(); file = os.open('x', os.O_CREAT | 1);"
        "os.write(2, b'noise'); assert file > 2, file; raise SystemExit(os.fstat(file).st_size)"
    )
    command = ["sh", "-c", 'cd "$1" && exec "$0" -c "$2" <&- >&- 2>&-', sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    folder = os.environ.get("TMPDIR", "/tmp")
    done = subprocess.run([*command, folder, code], env=environment, check=False)
    Path(folder, "x").unlink(missing_ok=True)
    assert done.returncode == 0


def test_an_open_stream_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.open_stream(sys.stdout) is sys.stdout
    assert signals._descriptor(None) is None
    assert signals._descriptor(_closed()) is None


_IN_A_DESTRUCTOR = """
import signal, time

class Held:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        len([])  # where Python sees the signal, at the latest

Held()
time.sleep(600)
"""


@pytest.mark.parametrize("module", ["vexpress_rt", "export.build"])
def test_an_interrupt_in_a_destructor_is_a_line_too(tmp_path: Path, module: str) -> None:
    """Python prints and drops what is raised there. A module that all commands import has the destructor."""
    (tmp_path / "argparse.py").write_text(_IN_A_DESTRUCTOR)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 130
    (line,) = done.stderr.splitlines()
    assert line.startswith("interrupted")


def test_another_exception_in_a_destructor_is_reported_as_python_reports_it(tmp_path: Path) -> None:
    wrong = _IN_A_DESTRUCTOR.replace("signal.raise_signal(signal.SIGINT)", "raise ValueError('odd')")
    (tmp_path / "argparse.py").write_text(wrong.replace("time.sleep(600)", "raise SystemExit(7)"))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "vexpress_rt", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert "Exception ignored in" in done.stderr
    assert "ValueError: odd" in done.stderr


@pytest.mark.parametrize("module", ["vexpress_rt", "export.build"])
def test_an_interrupt_during_the_imports_is_a_line(tmp_path: Path, module: str) -> None:
    """A module that is slow to import stands for all slow imports."""
    (tmp_path / "argparse.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(600)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with subprocess.Popen(
        [sys.executable, "-m", module, "--help"], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=120)
    assert process.returncode == 130
    assert len(printed.splitlines()) == 1
    assert printed.startswith("interrupted")


def test_other_handlers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert command_entry.run_command(lambda: 5) == 5
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


_MISSING = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["MISSING"].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Finder())
"""


def _without(missing: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(_MISSING)
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "MISSING": missing}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("torch", "export.checkpoint --preset tiny --output x"), ("torch", "export.build --weights . --output x"),
        ("torch", "export.pocket"), ("onnx", "export.pocket.recover"), ("safetensors", "export.checkpoint --help"),
        ("huggingface_hub", "export.download"),
    ],
)  # fmt: skip
def test_without_a_library_of_the_exporter_a_command_names_the_extra(
    tmp_path: Path, missing: str, arguments: str
) -> None:
    done = _without(missing, tmp_path, *arguments.split())
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith(f"error: the exporter needs {missing}, which is not installed: install the extra `export`")
    assert "pip install '.[export]'" in line


@pytest.mark.parametrize(
    ("missing", "extra", "module"),
    [
        ("torch", "export", "benchmarks.report"), ("onnx", "export", "benchmarks.cpu.changes"),
        ("matplotlib", "bench", "benchmarks.report"),
    ],
)  # fmt: skip
def test_without_a_library_a_benchmark_names_the_extra(tmp_path: Path, missing: str, extra: str, module: str) -> None:
    done = _without(missing, tmp_path, module, "--help")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert re.match(rf"error: [\w ]+ needs? {missing}, which is not installed: install the extra", line)
    assert f"install the extra `{extra}`, in a checkout with `pip install '.[{extra}]'`" in line


@pytest.mark.parametrize("command", ["export.build", "export.download"])
def test_help_needs_no_library_of_the_exporter(tmp_path: Path, command: str) -> None:
    done = _without("torch transformers safetensors onnx huggingface_hub", tmp_path, command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: " in done.stdout


def test_another_missing_module_stays_a_traceback(tmp_path: Path) -> None:
    done = _without("filelock", tmp_path, "export.build")
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'filelock'" in done.stderr
    assert "install the extra" not in done.stderr


def test_a_build_leaves_no_folder_for_a_compiler_s_cache(tmp_path: Path, micro_checkpoint: Path) -> None:
    (tmp_path / "temporary").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    environment |= {"TMPDIR": str(tmp_path / "temporary")}
    command = [
        sys.executable, "-m", "export.build", "--weights", str(micro_checkpoint), "--output", str(tmp_path / "bundle"),
        "--height=16", "--width=24", "--frames=3", "--target", "onnxruntime", "--engine", "denoiser",
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_ctrl_c_does_not_end_a_command_that_has_finished() -> None:
    """While the interpreter exits, the system's handler would end the process by the signal."""
    code = (
        "import atexit, signal\n"
        "atexit.register(lambda: print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN))\n"
        "from vexpress_rt.utils import command_entry\n"
        "print(command_entry.run_command(lambda: 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["0", "True"]
