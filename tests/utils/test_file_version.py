"""A file's version changes with its content."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vexpress_rt.utils.file_version import FileVersion


def version(path: Path) -> FileVersion:
    return FileVersion.of(path.stat())


def write_and_set_back(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"other  ")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"other  ")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def move_away_and_back(path: Path) -> None:
    path.rename(path.with_name("away"))
    path.with_name("away").rename(path)


@pytest.mark.parametrize("change", [write_and_set_back, replace, move_away_and_back])
def test_a_change_gives_another_version(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    before = version(path)
    assert version(path) == before
    time.sleep(0.02)  # a tick of the clock
    change(path)
    after = version(path)
    assert (after.size, after.written) == (before.size, before.written)
    assert after != before


def test_reading_gives_no_other_version(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    before = version(path)
    time.sleep(0.02)
    path.read_bytes()
    assert version(path) == before


def test_a_version_settles_after_a_minute(tmp_path: Path) -> None:
    found = version(tmp_path)
    assert not found.settled
    assert not found._replace(changed=time.time_ns() - 50 * 10**9).settled
    assert found._replace(changed=time.time_ns() - 70 * 10**9).settled


def test_no_version_settles_where_writing_leaves_all_times_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = version(tmp_path)._replace(changed=0)
    assert found.settled
    monkeypatch.setattr(os, "name", "nt")
    assert not found.settled


def test_a_version_is_another_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = version(tmp_path)
    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    before = found.to_json()
    monkeypatch.setattr("vexpress_rt.utils.file_version.boot_id", lambda: "0badb007")
    assert found.to_json() != before
