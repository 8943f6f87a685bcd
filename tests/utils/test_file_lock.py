"""A file lock has one holder at a time and leaves no file behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from vexpress_rt.errors import OutputError
from vexpress_rt.utils import file_lock
from vexpress_rt.utils.file_lock import FOLDER_LOCK, locked, locked_folder


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vexpress_rt.utils.file_lock._POLL", 0.001)


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> int:
        with locked(tmp_path / "lock", lambda: None):
            inside.append(number)
            time.sleep(0.002)
            alone = len(inside)
            inside.remove(number)
        return alone

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(40))) == {1}
    assert list(tmp_path.iterdir()) == []


def test_who_holds_it_is_waited_for(tmp_path: Path) -> None:
    waited = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path / "lock", lambda: pytest.fail("nobody has it")):
            other = pool.submit(lambda: locked(tmp_path / "lock", waited.set).__enter__())
            assert waited.wait(10)
            assert not other.done()
        other.result(10)
    assert waited.is_set()


def test_it_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from vexpress_rt.utils.file_lock import locked\n"
        "with locked(Path(sys.argv[1]), print): os._exit(3)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], cwd=ROOT, check=False)
    assert killed.returncode == 3
    assert (tmp_path / "lock").exists()
    with locked(tmp_path / "lock", lambda: pytest.fail("nobody has it")):
        pass
    assert not (tmp_path / "lock").exists()


def test_it_ends_with_what_is_raised_inside(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), locked(tmp_path / "lock", lambda: pytest.fail("nobody has it")):
            raise KeyboardInterrupt


def test_a_folder_that_takes_the_name_has_a_lock_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with locked(folder / "lock", lambda: None):
        folder.rename(tmp_path / "old")
        folder.mkdir()
        with locked(folder / "lock", lambda: pytest.fail("nobody has it")):
            pass
        (folder / "lock").touch()  # another's
    assert (folder / "lock").exists()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"none/lock cannot be locked: .*No such file.*: make its folder one that"),
        locked(tmp_path / "none" / "lock", lambda: None),
    ):
        pass


@pytest.fixture(params=[True, False], ids=["folders can be opened", "as on Windows"])
def folder(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(file_lock, "_FOLDERS_OPEN", request.param)
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def test_one_holds_a_folder_at_a_time(folder: Path) -> None:
    for _ in range(2):
        with locked_folder(folder) as first:
            for _ in range(2):
                with locked_folder(folder) as second:
                    assert (first, second) == (True, False)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_locked_folder_holds_no_file_and_can_be_moved(folder: Path) -> None:
    with locked_folder(folder) as acquired:
        assert acquired
        assert list(folder.iterdir()) == []
        folder.rename(folder.with_name("moved"))
    assert list(folder.parent.iterdir()) == [folder.with_name("moved")]


def test_the_lock_of_a_folder_ends_with_the_process_that_held_it(folder: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from vexpress_rt.utils import file_lock\n"
        f"file_lock._FOLDERS_OPEN = {file_lock._FOLDERS_OPEN}\n"
        "with file_lock.locked_folder(Path(sys.argv[1])): os._exit(3)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=False)
    assert killed.returncode == 3
    assert folder.with_name(folder.name + FOLDER_LOCK).exists() != file_lock._FOLDERS_OPEN
    with locked_folder(folder) as acquired:
        assert acquired
    assert list(folder.parent.iterdir()) == [folder]


def test_a_missing_folder_has_no_lock(folder: Path) -> None:
    with pytest.raises(FileNotFoundError), locked_folder(folder / "none" / "deeper"):
        pass
