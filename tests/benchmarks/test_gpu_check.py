"""`python -m benchmarks.gpu_check`: its result without a GPU, and the outcomes of failing parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import gpu_check
from benchmarks.gpu.parts import FAILED, NOT_AVAILABLE, OK, Outcome, Part
from tests.support.paths import ROOT

GPU = {"gpu": {"name": "Fake GPU (80 GB)"}, "cpu": "a processor"}


def part(name: str, function: str | None = None, **fields: Any) -> Part:
    return Part(name, f"tests.support.gpu_parts:{function or name}", **fields)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that runs the command with chosen parts, as if there were a GPU; returns exit code and result."""

    def run(*parts: Part, **options: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(gpu_check, "plan", lambda *given: list(parts))
        monkeypatch.setattr(gpu_check, "select", lambda parts, wanted: parts)
        monkeypatch.setattr(gpu_check, "_machine", lambda *given: Outcome(OK, figures=GPU))
        flags = [text for name, value in options.items() for text in (f"--{name}", value)]
        code = gpu_check.main(["--output", str(tmp_path / "result.json"), *flags])
        return code, json.loads((tmp_path / "result.json").read_text())

    return run


def without_a_gpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu_check", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_without_a_gpu_every_part_is_not_available_and_says_why(tmp_path: Path) -> None:
    finished = without_a_gpu("--size", "tiny", "--output", str(tmp_path / "result.json"))
    assert finished.returncode == 0, finished.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert {outcome["status"] for outcome in result["parts"].values()} == {NOT_AVAILABLE}
    assert all("no NVIDIA GPU can be used" in outcome["reason"] for outcome in result["parts"].values())
    assert {name.partition("/")[0] for name in result["parts"]} >= {"kernels", "engines", "videos", "timings", "torch"}
    assert result["machine"]["gpu"] is None
    assert result["comparison"] == {}


def test_the_result_goes_under_the_name_of_the_machine_and_the_day(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(gpu_check, "_machine", lambda *given: Outcome(OK, figures=GPU))
    monkeypatch.setattr(gpu_check, "run_parts", lambda *given, **more: None)
    assert gpu_check.main([]) == 0
    (file,) = (tmp_path / "results").iterdir()
    assert file.name.startswith("fake-gpu-80-gb-20")
    assert file.suffix == ".json"


def test_a_machine_that_cannot_be_described_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "MACHINE", part("machine", "crashing"))
    assert gpu_check.main(["--size", "tiny", "--output", str(tmp_path / "result.json")]) == 1
    parts = json.loads((tmp_path / "result.json").read_text())["parts"]
    assert parts["machine"]["status"] == FAILED
    assert "SIGSEGV" in parts["kernels"]["reason"]


def test_a_part_that_raises_or_dies_is_recorded_with_its_figures_and_the_others_go_on(on_a_gpu: Any) -> None:
    code, result = on_a_gpu(part("raising"), part("crashing"), part("crashing_at_exit"), part("leaving"), part("fine"))
    parts = result["parts"]
    assert code == 1
    assert [outcome["status"] for outcome in parts.values()] == [FAILED, FAILED, FAILED, FAILED, OK]
    assert parts["raising"]["reason"] == "ValueError: seven is not even"
    assert parts["raising"]["figures"] == {"so_far": 1}
    assert "about to go wrong" in parts["raising"]["log"]
    assert "Traceback" in parts["raising"]["log"]
    assert parts["crashing"]["reason"] == "killed by SIGSEGV"
    assert parts["crashing"]["figures"] == {"so_far": 2}
    assert parts["crashing_at_exit"]["reason"] == "killed by SIGKILL, after it had finished"
    assert parts["crashing_at_exit"]["figures"] == {"so_far": 3}
    assert parts["leaving"]["reason"] == "its process ended with exit code 4"


def test_a_part_that_hangs_is_ended_with_all_that_it_started_and_the_others_go_on(
    on_a_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"

    def now() -> float:
        """Return 4.5 s once the part hangs, and 0 before, so that the test does not depend on the machine's speed."""
        return 4.5 if pids.exists() and pids.read_text() else 0.0

    for module in ("process", "part_runner"):
        monkeypatch.setattr(f"benchmarks.gpu.{module}.time", SimpleNamespace(monotonic=now, sleep=time.sleep))
    monkeypatch.setattr("benchmarks.gpu.process.GRACE", 0.2)
    code, result = on_a_gpu(part("hanging", options={"pids": str(pids)}), part("fine"), budget="6")
    assert code == 1
    assert result["parts"]["hanging"]["status"] == FAILED
    assert "time limit of 4 s" in result["parts"]["hanging"]["reason"]
    assert result["parts"]["hanging"]["figures"] == {"so_far": 4}
    assert result["parts"]["fine"]["status"] == OK
    for pid in json.loads(pids.read_text()):
        assert ended(pid)


def ended(pid: int, patience: float = 60.0) -> bool:
    """Return whether a process ends, or is a zombie, within `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_what_this_machine_lacks_is_not_a_failure(on_a_gpu: Any) -> None:
    code, result = on_a_gpu(
        part("lacking"), part("library_missing"), part("package_missing", options={"module": "no_such_package.inside"})
    )
    assert code == 0
    assert {outcome["status"] for outcome in result["parts"].values()} == {NOT_AVAILABLE}
    assert result["parts"]["lacking"]["reason"] == "the moon is not out"
    assert result["parts"]["library_missing"]["reason"] == "no such library: install it"
    assert "no_such_package" in result["parts"]["package_missing"]["reason"]


def test_a_module_of_ours_that_is_missing_is_a_failure(on_a_gpu: Any) -> None:
    code, result = on_a_gpu(part("package_missing", options={"module": "benchmarks.no_such_module"}))
    assert code == 1
    assert result["parts"]["package_missing"]["status"] == FAILED


def test_the_result_is_written_after_every_part(on_a_gpu: Any, tmp_path: Path) -> None:
    options = {"result": str(tmp_path / "result.json")}
    _, result = on_a_gpu(part("fine"), part("reading", options=options), part("later", "fine"), jobs="1")
    assert result["parts"]["reading"]["figures"]["seen"] == {
        "fine": OK,
        "reading": NOT_AVAILABLE,
        "later": NOT_AVAILABLE,
    }


def test_what_is_asked_to_end_keeps_what_was_done_and_leaves_no_process(tmp_path: Path) -> None:
    pids, output = tmp_path / "pids", tmp_path / "result.json"
    code = f"""
from benchmarks import gpu_check
from benchmarks.gpu import process
from benchmarks.gpu.parts import OK, Outcome, Part
process.GRACE = 0.2
hanging = Part("hanging", "tests.support.gpu_parts:hanging", {{"pids": {str(pids)!r}}})
parts = [Part("fine", "tests.support.gpu_parts:fine"), hanging]
gpu_check.plan, gpu_check.select = lambda *given: parts, lambda parts, wanted: parts
gpu_check._machine = lambda *given: Outcome(OK, figures={GPU!r})
raise SystemExit(gpu_check.main(["--output", {str(output)!r}, "--jobs", "1"]))
"""
    command = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not pids.exists() or not pids.read_text():
        assert command.poll() is None
        time.sleep(0.05)
    command.send_signal(signal.SIGTERM)
    _, said = command.communicate(timeout=120)
    assert command.returncode == 128 + signal.SIGTERM
    assert "interrupted" in said
    result = json.loads(output.read_text())
    assert result["parts"]["fine"]["status"] == OK
    assert result["parts"]["hanging"] == {
        "status": NOT_AVAILABLE,
        "reason": "the run ended before this part",
        "seconds": 0.0,
    }
    assert all(ended(pid) for pid in json.loads(pids.read_text()))


@pytest.mark.parametrize(
    "arguments", [["--budget", "0"], ["--rtx", "no/such/folder"], ["--parts", "everything"], ["--size", "huge"]]
)
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_folders_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / "a" / "rtx", tmp_path / "b" / "rtx"]
    for folder in folders:
        folder.mkdir(parents=True)
    with pytest.raises(SystemExit):
        gpu_check.main([text for folder in folders for text in ("--rtx", str(folder))])
    assert "have the same last name" in capsys.readouterr().err
