"""Folders that appear whole or not at all, whatever ends the process that makes them."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export import staging
from export.staging import staged
from tests.support.folders import content
from tests.support.paths import ROOT
from vexpress_rt.errors import OutputError, VExpressError
from vexpress_rt.utils import file_lock
from vexpress_rt.utils.signals import GracefulShutdown


@pytest.fixture(params=[True, False], ids=["folders can be opened", "as on Windows"])
def each_kind_of_lock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_lock, "_FOLDERS_OPEN", request.param)


def fill(output: Path, text: str = "new", before_commit: Callable[[], None] = lambda: None) -> None:
    with staged(output) as (folder, commit):
        (folder / "file").write_text(text)
        before_commit()
        commit()


def run_and_die(output: Path, ending: str) -> None:
    """Write a file for `output` in another process, run the code `ending` in it, and kill it."""
    code = f"""
import os, signal, sys
from pathlib import Path
from export import staging
from vexpress_rt.utils import file_lock
file_lock._FOLDERS_OPEN = {file_lock._FOLDERS_OPEN}
output = Path(sys.argv[1])
with staging.staged(output) as (folder, commit):
    (folder / "file").write_text("half")
    {ending}
    os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", code, str(output)], cwd=ROOT, check=False)
    assert result.returncode == -signal.SIGKILL


def test_the_folder_appears_under_its_name_when_it_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "new" / "bundle"
    with staged(output) as (folder, commit):
        (folder / "file").write_text("new")
        assert not output.exists()
        commit()
        assert content(tmp_path) == {"new/bundle/file": b"new"}
    assert content(tmp_path) == {"new/bundle/file": b"new"}


def test_it_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    fill(tmp_path / "bundle", "old")
    (tmp_path / "bundle" / "other").touch()
    fill(tmp_path / "bundle", "new")
    assert content(tmp_path) == {"bundle/file": b"new"}


def test_its_permissions_are_those_of_any_new_folder(tmp_path: Path) -> None:
    fill(tmp_path / "bundle")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "bundle").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    fill(tmp_path / "disk" / "bundle", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "bundle")
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "disk") == {"bundle/file": b"new"}


def test_the_current_folder_can_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fill(Path("."))
    assert content(tmp_path) == {"here/file": b"new"}


@pytest.mark.parametrize("reason", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("existing", [True, False])
def test_whatever_goes_wrong_leaves_what_was_there(tmp_path: Path, reason: BaseException, existing: bool) -> None:
    if existing:
        fill(tmp_path / "bundle", "old")

    def fail() -> None:
        raise reason

    with pytest.raises(type(reason)):
        fill(tmp_path / "bundle", "new", fail)
    assert content(tmp_path) == ({"bundle/file": b"old"} if existing else {})
    assert len(list(tmp_path.iterdir())) == existing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupting_leaves_what_was_there(tmp_path: Path, number: signal.Signals) -> None:
    fill(tmp_path / "bundle", "old")
    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), GracefulShutdown():
        fill(tmp_path / "bundle", "new", lambda: signal.raise_signal(number))
    assert content(tmp_path) == {"bundle/file": b"old"}
    assert signal.getsignal(number) is handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_between_the_two_renames_waits_for_the_second(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "bundle", "old")
    rename = Path.rename

    def rename_and_interrupt(self: Path, target: Path) -> Path:
        result = rename(self, target)
        signal.raise_signal(number)
        return result

    monkeypatch.setattr(Path, "rename", rename_and_interrupt)
    with pytest.raises(KeyboardInterrupt), GracefulShutdown():
        fill(tmp_path / "bundle", "new")
    assert content(tmp_path) == {"bundle/file": b"new"}


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with GracefulShutdown():
            fill(tmp_path / "bundle", "new", lambda: signal.raise_signal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert content(tmp_path) == {"bundle/file": b"new"}


def test_a_rename_that_fails_puts_the_older_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "bundle", "old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if staging.MARK in self.name and not self.name.endswith(staging.OLD):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="No space left"):
        fill(tmp_path / "bundle", "new")
    assert content(tmp_path) == {"bundle/file": b"old"}


@pytest.mark.usefixtures("each_kind_of_lock")
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    fill(tmp_path / "bundle", "old")
    run_and_die(tmp_path / "bundle", "pass")
    lock_files = [] if file_lock._FOLDERS_OPEN else [b""]
    assert sorted(content(tmp_path).values()) == [*lock_files, b"half", b"old"]
    with pytest.raises(ValueError, match="seen"):
        fill(tmp_path / "bundle", "new", lambda: (_ for _ in ()).throw(ValueError("seen")))
    assert content(tmp_path) == {"bundle/file": b"old"}


@pytest.mark.usefixtures("each_kind_of_lock")
def test_a_process_killed_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "bundle", "old")
    run_and_die(tmp_path / "bundle", "output.rename(folder.with_name(folder.name + staging.OLD))")
    assert not (tmp_path / "bundle").exists()
    with staged(tmp_path / "bundle"):
        assert (tmp_path / "bundle" / "file").read_text() == "old"
    assert content(tmp_path) == {"bundle/file": b"old"}


@pytest.mark.usefixtures("each_kind_of_lock")
def test_what_another_process_is_still_making_is_left_alone(tmp_path: Path) -> None:
    with staged(tmp_path / "bundle") as (folder, commit):
        (folder / "file").write_text("first")
        fill(tmp_path / "bundle", "second")
        assert (folder / "file").read_text() == "first"
        commit()
    assert content(tmp_path) == {"bundle/file": b"first"}


def test_leftovers_of_other_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / f".bundle2{staging.MARK}0").mkdir()
    (tmp_path / f".a{staging.MARK}0").mkdir()
    fill(tmp_path / "[ab]*")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_parent_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/bundle cannot be written: .*: check folder, permissions"):
        fill(tmp_path / "file" / "bundle")


def test_the_root_folder_and_a_loop_of_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for output in (Path("/"), tmp_path / "loop" / "bundle"):
        with pytest.raises(OutputError, match=r"cannot be .*: (choose another folder|check folder)"):
            fill(output)


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit of a process on the size of its files stands for the end of the disk."""
    fill(tmp_path / "bundle", "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"bundle cannot be written: .*File too large.*free space"):
            fill(tmp_path / "bundle", "x" * (1 << 21))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(tmp_path) == {"bundle/file": b"old"}


def test_errors_of_our_own_pass_through(tmp_path: Path) -> None:
    class OwnError(VExpressError, OSError):
        pass

    def fail() -> None:
        raise OwnError("mine")

    with pytest.raises(OwnError, match=r"^mine$"):
        fill(tmp_path / "bundle", "new", fail)
