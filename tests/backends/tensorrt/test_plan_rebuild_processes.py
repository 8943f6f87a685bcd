"""Plans that several processes need at once are compiled once; processes that end meanwhile leave no trace."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export.build.builder import build
from export.build.options import BuildOptions
from tests.doubles.fake_builder import FakeBuilder
from tests.doubles.fakes import write_bundle
from tests.support.compiled import ELSEWHERE, PORTABLE, add_plans, compilation, installed_builder
from tests.support.folders import content
from tests.support.micro import MICRO_SHAPE
from tests.support.paths import ROOT
from vexpress_rt.backends.tensorrt import plan_rebuild
from vexpress_rt.backends.tensorrt.plan_store import find_plans
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES
from vexpress_rt.bundle.manifest import read_manifest, write_manifest
from vexpress_rt.utils.file_lock import locked

KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBuilder]:
    """The stand-in that compiles on this machine, which has a GPU."""
    yield from installed_builder(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle with the plans of another machine."""
    return add_plans(write_bundle(tmp_path / "bundle"), **ELSEWHERE)


def start(folder: Path, target: str = "tensorrt", hook: str = "") -> subprocess.Popen[str]:
    """Start a process of `rebuilder.py` that opens the bundle and waits."""
    command = [sys.executable, "-W", "error", "-m", "tests.support.rebuilder", str(folder), target, hook]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload]
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process  # type: ignore[no-any-return]


def run(*processes: subprocess.Popen[str]) -> list[tuple[int, list[str], str]]:
    """Continue processes at once; return exit code, compiled engines and messages of each."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=120) for process in processes]
    return [(p.returncode, out.split(), err) for p, (out, err) in zip(processes, ends, strict=True)]


def test_two_processes_at_once_compile_once_and_for_real(micro_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    engines = ("audio_projection", "pose_guider")  # the soonest compiled
    build(micro_checkpoint, folder, BuildOptions(MICRO_SHAPE, "fp16", "tensorrt-rtx", engines=engines))
    manifest = read_manifest(folder)
    write_manifest(folder, dataclasses.replace(manifest, compiled=()))
    add_plans(folder, lacking=(), library="tensorrt-rtx", version="1.0.0", **PORTABLE)
    ends = run(start(folder, "tensorrt-rtx"), start(folder, "tensorrt-rtx"))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert sorted(built for _, built, _ in ends) == [[], list(engines)]
    bundle = Bundle.open(folder)
    assert [one.version for one in bundle.manifest.compiled] == ["1.0.0", manifest.compiled[0].version]
    assert all(bundle.plan_path(name).stat().st_size > 10_000 for name in engines)
    assert set(content(folder)) == {"manifest.json", *bundle.manifest.files}


def test_a_process_that_waits_for_another_says_so_and_uses_its_plans(
    folder: Path, builder: FakeBuilder, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, int, int]] = []
    waiting = threading.Event()

    def tell(*what: Any) -> None:
        told.append(what)
        waiting.set()

    bundle = Bundle.open(folder)
    thread = threading.Thread(target=lambda: find_plans(bundle, progress=tell))
    with locked(folder / plan_rebuild.LOCK, lambda: None):
        thread.start()
        assert waiting.wait(30)
        add_plans(folder)
    thread.join(30)
    assert builder.built == []
    assert (told[0], told[-1]) == (("wait for another process", 0, 1), ("wait for another process", 1, 1))
    assert caplog.messages == [f"another process compiles plans in {folder}: waiting for it"]
    assert not (folder / plan_rebuild.LOCK).exists()


def test_an_exception_of_progress_ends_the_wait(folder: Path) -> None:
    def stop(*what: Any) -> None:
        raise KeyboardInterrupt

    with locked(folder / plan_rebuild.LOCK, lambda: None), pytest.raises(KeyboardInterrupt):
        find_plans(Bundle.open(folder), progress=stop)


@pytest.mark.parametrize(
    "hook",
    [
        f"if name == 'denoiser': {KILL}",
        # in the middle of putting everything into its place
        f"import os\nreplace = os.replace\ndef half(*args, **dirs):\n    replace(*args, **dirs)\n    {KILL}\n"
        "os.replace = half if name == 'vae_decoder' else replace",
    ],
    ids=["while it compiles", "while files are moved"],
)
def test_files_of_a_killed_process_are_ignored_and_removed(folder: Path, builder: FakeBuilder, hook: str) -> None:
    before = content(folder)
    ((code, _, _),) = run(start(folder, hook=hook))
    assert code == -signal.SIGKILL
    left = content(folder)
    assert left != before
    assert left.items() >= before.items()
    find_plans(Bundle.open(folder))
    assert builder.built == list(ENGINE_NAMES)
    assert set(content(folder)) == set(before) | {compilation().plan_name(name) for name in ENGINE_NAMES}
    assert not list(folder.glob(".compiling*"))


def test_sigterm_ends_a_command_when_it_has_cleaned_up(folder: Path) -> None:
    before = content(folder)
    hook = "import os, signal\nif name == 'denoiser': os.kill(os.getpid(), signal.SIGTERM)"
    ((code, _, _),) = run(start(folder, hook=hook))
    assert code == 130
    assert content(folder) == before
    assert not list(folder.glob(".compiling*"))
