"""`vexpress-rt cache`: what is in the user's cache, and how it is removed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from vexpress_rt.__main__ import main
from vexpress_rt.utils import user_cache as cache


@pytest.fixture
def folder(user_cache: Path) -> Path:
    """The folder of the entries: two compiled engines and one record, used at different times."""
    for number, age in enumerate((90, 3 * 86400)):
        stored = cache.store_file("openvino_engine", f"{number}", 1536, lambda path: path.write_bytes(bytes(1536)))
        assert stored is not None
        os.utime(stored, (time.time() - age,) * 2)
    assert cache.write_record("tuning", "a", {"value": 1})
    return user_cache / "v1"


def test_folder_limit_and_kinds_are_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VEXPRESS_RT_CACHE_LIMIT", "20M")
    assert main(["cache"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"folder:  {folder} (VEXPRESS_RT_CACHE_DIR)"
    assert lines[1] == "limit:   20.0 MiB (VEXPRESS_RT_CACHE_LIMIT)"
    found = cache.entries()
    assert lines[2].startswith(f"entries: {len(found)} entries, {sum(entry.size for entry in found) / 1024:.1f} KiB")
    assert lines[4].split() == ["kind", "entries", "size", "last", "used"]
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[5:]}
    assert rows["openvino_engine"].split(maxsplit=3) == ["2", "3.0", "KiB", "1 minute to 3 days ago"]
    assert rows["tuning"].startswith("1 ")
    assert rows["tuning"].endswith("seconds ago") or rows["tuning"].endswith("1 second ago")
    assert {entry.kind for entry in found} == set(rows)
    assert cache.entries() == found  # showing an entry is no use of it


def test_clear_removes_all_entries(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(cache.entries())
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out.startswith(f"{count} entries, ")
    assert cache.entries() == []
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.json"))
    assert main(["cache"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["entries: 0 entries, 0 B"]


def test_a_cache_that_does_not_exist_is_empty_and_not_made(
    user_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([], ["--clear"]):
        assert main(["cache", *arguments]) == 0
        assert "0 entries, 0 B" in capsys.readouterr().out
    assert not user_cache.exists()


@pytest.mark.parametrize("arguments", [[], ["--clear"]])
def test_a_cache_that_is_off_is_said_to_be_off(
    arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VEXPRESS_RT_CACHE_DIR", "off")
    assert main(["cache", *arguments]) == 0
    assert capsys.readouterr().out == "the cache is off: VEXPRESS_RT_CACHE_DIR is 'off'\n"
    assert list(folder.glob("*.bin"))


@pytest.mark.skipif(os.name == "nt", reason="folders of Windows have access lists instead of modes")
def test_a_folder_that_others_can_write_is_left_alone_with_a_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.chmod(0o777)
    assert main(["cache", "--clear"]) == 0
    captured = capsys.readouterr()
    assert f"warning: the cache folder {folder} is not used: others can write to it" in captured.err
    assert list(folder.glob("*.bin"))


def test_entries_that_cannot_be_removed_are_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert main(["cache", "--clear"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {len(cache.entries())} entries of the cache cannot be removed, such as {folder}")
    assert "make the folder writable" in error
