"""Partial files of a running process stay; those of a killed one are removed by the next writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.support.paths import ROOT
from vexpress_rt.media.video_writer import VideoWriter
from vexpress_rt.utils import partial_file as partial
from vexpress_rt.utils.partial_file import boot_id, partial_file, sweep

_WRITES = """
import sys, time
from fractions import Fraction
import numpy as np
from vexpress_rt.media.video_writer import VideoWriter
with VideoWriter(sys.argv[1], (16, 16), Fraction(25), None, 20) as writer:
    writer.write(np.zeros((16, 16, 3), np.uint8))
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes a video into the same folder, and has begun."""
    command = [sys.executable, "-c", _WRITES, str(tmp_path / "theirs.mp4")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def write(path: Path) -> None:
    with VideoWriter(path, (16, 16), Fraction(25), None, 20) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_partial_files_of_a_killed_process_are_removed_by_the_next_writer(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    other.kill()
    other.wait()
    (left,) = names(tmp_path)
    assert left.startswith(".vexpress-")
    write(tmp_path / "ours.mkv")
    assert names(tmp_path) == ["ours.mkv"]


def test_partial_files_of_a_running_process_stay(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    (theirs,) = names(tmp_path)
    write(tmp_path / "ours.mp4")
    assert names(tmp_path) == [theirs, "ours.mp4"]


def test_partial_files_of_a_stopped_process_stay(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGSTOP)
    (theirs,) = names(tmp_path)
    os.utime(tmp_path / theirs, (0, 0))  # since 1970
    sweep(tmp_path)
    assert names(tmp_path) == [theirs]


def test_two_writers_of_one_process_leave_each_other_alone(tmp_path: Path) -> None:
    with partial_file(tmp_path / "a.mp4") as one, partial_file(tmp_path / "b.mp4") as two:
        sweep(tmp_path)
        assert names(tmp_path) == sorted([one.name, two.name])
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        ".vexpress-00000000-0123456789ab.mp4",  # another boot ID: its locks may be invisible here
        ".vexpress-0123456789ab.mp4",  # an older version, which took no lock
        ".vexpress-{mark}-0123456789ab",
        ".vexpress-{mark}-0123456789.mp4",
        ".vexpress-{mark}-notes.mp4",
        "vexpress-{mark}-0123456789ab.mp4",
    ],
)
def test_other_files_stay(tmp_path: Path, name: str) -> None:
    path = tmp_path / name.format(mark=boot_id())
    path.touch()
    sweep(tmp_path)
    assert path.exists()


def test_other_things_than_files_stay(tmp_path: Path) -> None:
    prefix = f".vexpress-{boot_id()}-"
    (tmp_path / "video.mp4").touch()
    (tmp_path / f"{prefix}000000000000.mp4").mkdir()
    (tmp_path / f"{prefix}000000000001.mp4").symlink_to(tmp_path / "video.mp4")
    os.mkfifo(tmp_path / f"{prefix}000000000002.mp4")
    before = names(tmp_path)
    sweep(tmp_path)
    assert names(tmp_path) == before


def test_a_file_system_without_locks_sweeps_nothing_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f".vexpress-{boot_id()}-0123456789ab.mp4").touch()

    def refuse(handle: int, operation: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    write(tmp_path / "ours.mp4")
    assert names(tmp_path) == [f".vexpress-{boot_id()}-0123456789ab.mp4", "ours.mp4"]


def test_a_system_that_locks_no_files_sweeps_nothing_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f".vexpress-{boot_id()}-0123456789ab.mp4").touch()
    monkeypatch.setattr(partial, "_LOCKABLE", False)
    write(tmp_path / "ours.mp4")
    assert names(tmp_path) == [f".vexpress-{boot_id()}-0123456789ab.mp4", "ours.mp4"]


def test_writers_and_sweeps_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """If a sweep removes a file before it is locked, the writer uses another name."""
    end = threading.Event()

    def keep_sweeping() -> None:
        while not end.is_set():
            sweep(tmp_path)

    thread = threading.Thread(target=keep_sweeping)
    thread.start()
    try:
        for _ in range(300):
            with partial_file(tmp_path / "a.mp4") as path:
                assert path.exists()
                path.replace(tmp_path / "a.mp4")
    finally:
        end.set()
        thread.join()
    assert names(tmp_path) == ["a.mp4"]


def test_the_boot_id_is_shared_by_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = "from vexpress_rt.utils.partial_file import boot_id; print(boot_id())"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == boot_id()
    (tmp_path / "boot_id").write_text("after a restart\n")
    monkeypatch.setattr(partial, "_BOOT", tmp_path / "boot_id")
    assert boot_id.__wrapped__() != boot_id()


@pytest.mark.parametrize("name", [".vexpress-00000000-0123456789ab.mp4", ".vexpress-0123456789ab.mp4"])
@pytest.mark.parametrize("locks", [True, False])
def test_what_nobody_has_written_to_for_a_week_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, locks: bool
) -> None:
    if not locks:
        monkeypatch.setattr(partial, "_LOCKABLE", False)
    for days, stays in ((6, True), (8, False)):
        path = tmp_path / name
        path.touch()
        os.utime(path, (time.time() - days * 86400,) * 2)
        sweep(tmp_path)
        assert path.exists() == stays
