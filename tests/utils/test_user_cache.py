"""The user's cache holds whole entries or none, stays in its limit, and fails no work that uses it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import ROOT
from vexpress_rt.errors import CancelledError
from vexpress_rt.utils import user_cache as cache
from vexpress_rt.utils.cancellation import cancellable
from vexpress_rt.utils.user_cache import (
    DEFAULT_LIMIT,
    DISK_RESERVE,
    FOLDER_VARIABLE,
    LIMIT_VARIABLE,
    RECORD_LIMIT,
    cache_settings,
    clear,
    entries,
    entry_lock,
    file_hash,
    find_file,
    read_record,
    remove_file,
    remove_record,
    store_file,
    write_record,
)

RECORD = {"text": "é", "number": 1.5, "list": [1, None, True], "object": {"a": {}}}


@pytest.fixture(autouse=True)
def fresh_notes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let every test see the notes that are logged once a process."""
    monkeypatch.setattr(cache, "_logged", set())
    with caplog.at_level(logging.INFO, logger="vexpress_rt"):
        yield


@pytest.fixture
def folder(user_cache: Path) -> Path:
    """The folder of the entries, which does not exist yet."""
    return user_cache / "v1"


def writer(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def store(key: str, content: bytes, size: int | None = None) -> Path | None:
    return store_file("blob", key, len(content) if size is None else size, writer(content))


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a process that runs code on the same cache."""
    head = "import os, signal, sys, time; from vexpress_rt.utils.user_cache import *\n"
    command = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


# Records.


def test_a_record_comes_back(folder: Path) -> None:
    assert read_record("test", "key") is None
    assert not folder.exists()
    assert write_record("test", "key", RECORD)
    assert read_record("test", "key") == RECORD
    assert write_record("test", "key", {})
    assert read_record("test", "key") == {}
    assert len(list(folder.iterdir())) == 1


@given(st.text(), st.text())
def test_records_of_different_keys_and_kinds_differ(one: str, other: str) -> None:
    write_record("test", one, {"is": one})
    write_record("test", other, {"is": other})
    assert read_record("test", one) == ({"is": one})
    assert read_record("other", one) is None


def test_a_key_can_hold_any_text(user_cache: Path) -> None:
    for key in ("", "../../escape", "\0", "\ud800", "x" * 100_000):
        assert write_record("test", key, {"length": len(key)})
        assert read_record("test", key) == {"length": len(key)}
    assert [path.name for path in user_cache.iterdir()] == ["v1"]


@pytest.mark.parametrize("kind", ["", "A", "a/b", "..", "a" * 33])
def test_a_kind_is_a_plain_name(kind: str) -> None:
    with pytest.raises(ValueError, match="expected lower-case letters"):
        write_record(kind, "key", {})


@pytest.mark.parametrize("record", [{"a": float("nan")}, {"a": float("inf")}, {"a": "x" * RECORD_LIMIT}])
def test_a_record_that_json_cannot_give_back_is_refused(folder: Path, record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not JSON compliant|expected at most"):
        write_record("test", "key", record)
    assert not folder.exists()


def one_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-1],
    "changed": lambda content: content.replace(b"1.5", b"2.5"),
    "no UTF-8": lambda content: b"\xff" + content,
    "nested": lambda content: b"[" * 100_000,
    "an endless number": lambda content: content.replace(b"1.5", b"9" * 10_000),
    "infinity": lambda content: content.replace(b"1.5", b"Infinity"),
    "large": lambda content: content + b" " * RECORD_LIMIT,
    "no object": lambda content: b"[]",
    "no record": lambda content: json.dumps({"kind": "test", "key": "key", "sha256": ""}).encode(),
    "no hash": lambda content: json.dumps({"kind": "test", "key": "key", "record": {}}).encode(),
    "another key": lambda content: content.replace(b'"key":"key"', b'"key":"kez"'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_missing_and_is_removed(
    folder: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    write_record("test", "key", RECORD)
    path = one_file(folder)
    path.write_bytes(damage(path.read_bytes()))
    assert read_record("test", "key") is None
    assert not path.exists()
    assert "is damaged and is removed" in caplog.text
    assert write_record("test", "key", RECORD)
    assert read_record("test", "key") == RECORD


def test_a_record_that_was_renamed_is_not_that_of_another_key(folder: Path) -> None:
    write_record("test", "one", {"a": 1})
    one = one_file(folder)
    content = one.read_bytes()
    write_record("test", "two", {"a": 2})
    (two,) = set(folder.iterdir()) - {one}
    two.write_bytes(content)
    assert read_record("test", "two") is None


def test_a_record_is_no_pipe_and_no_link(folder: Path, tmp_path: Path) -> None:
    write_record("test", "key", RECORD)
    path = one_file(folder)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert read_record("test", "key") is None
    path.unlink()
    os.mkfifo(path)
    assert read_record("test", "key") is None
    assert entries() == []


# Files.


def test_a_file_comes_back(folder: Path) -> None:
    assert find_file("blob", "key") is None
    assert not folder.exists()
    stored = store("key", b"content")
    assert stored is not None
    assert stored == find_file("blob", "key")
    assert stored.read_bytes() == b"content"
    assert find_file("blob", "other") is None
    assert find_file("other", "key") is None


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that grows with each file that is hashed from now on."""
    done: list[Path] = []

    def count(path: Path) -> str:
        done.append(path)
        return file_hash(path)

    monkeypatch.setattr(cache, "file_hash", count)
    return done


def test_an_unchanged_file_is_not_hashed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store("key", b"content")
    done = hashed(monkeypatch)
    for _ in range(3):
        assert find_file("blob", "key") == path
    assert done == []
    assert path is not None
    time.sleep(0.02)  # a tick of the clock
    os.utime(path)
    for _ in range(3):
        assert find_file("blob", "key") == path
    assert done == [path]


def test_a_file_is_hashed_again_after_a_restart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store("key", b"content")
    done = hashed(monkeypatch)
    monkeypatch.setattr("vexpress_rt.utils.file_version.boot_id", lambda: "0badb007")
    assert find_file("blob", "key") == find_file("blob", "key") == path
    assert done == [path]


def test_a_file_that_changed_in_place_is_hashed_again_although_its_time_was_set_back(folder: Path) -> None:
    path = store("key", b"content")
    assert path is not None
    before = path.stat()
    time.sleep(0.02)  # a tick of the clock
    path.write_bytes(b"cOntent")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert find_file("blob", "key") is None
    assert not path.exists()


def test_a_useless_file_can_be_removed(folder: Path) -> None:
    store("key", b"content")
    other = store("other", b"content")
    remove_file("blob", "key")
    assert find_file("blob", "key") is None
    assert find_file("blob", "other") == other


def test_a_new_file_takes_the_place_of_the_old_one(folder: Path) -> None:
    store("key", b"old")
    store("key", b"new")
    found = find_file("blob", "key")
    assert found is not None
    assert found.read_bytes() == b"new"
    assert list(folder.glob("blob-*")) == [found]


@pytest.mark.parametrize("content", [b"", b"conten", b"cOntent", b"content "])
def test_a_damaged_file_is_missing_and_is_removed(
    folder: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = store("key", b"content")
    assert path is not None
    path.write_bytes(content)
    assert find_file("blob", "key") is None
    assert not path.exists()
    assert "is damaged and is removed" in caplog.text


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 20])
def test_the_hash_of_a_file_is_the_same_whatever_reads_it(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of 8 bytes that are read in blocks of 3 have the hash of the definition."""
    import hashlib

    monkeypatch.setattr(cache, "_CHUNK", 8)
    monkeypatch.setattr(cache, "_BLOCK", 3)
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    chunks = b"".join(hashlib.sha256(content[at : at + 8]).digest() for at in range(0, size, 8))
    assert file_hash(tmp_path / "file") == hashlib.sha256(chunks + size.to_bytes(8, "big")).hexdigest()


def test_a_failure_to_write_a_file_leaves_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fails(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    assert store_file("blob", "key", 10, fails) is None
    assert list(folder.iterdir()) == []
    assert "No space left on device" in caplog.text


def test_another_exception_of_the_writer_is_raised_and_leaves_nothing(folder: Path) -> None:
    def fails(path: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_file("blob", "key", 10, fails)
    assert list(folder.iterdir()) == []


# Limits.


def test_the_least_recently_used_entries_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "25K")  # two files of 10,000 bytes, and small records
    for number, key in enumerate(["a", "b"]):
        path = store(key, key.encode() * 10_000)
        assert path is not None
        os.utime(path, (number, number))
    assert find_file("blob", "a") is not None  # used now
    store("c", b"c" * 10_000)
    assert find_file("blob", "b") is None
    assert find_file("blob", "a") is not None
    assert find_file("blob", "c") is not None
    assert sum(entry.size for entry in entries()) <= 25 << 10


def test_reading_a_record_counts_as_use(folder: Path) -> None:
    write_record("test", "key", RECORD)
    os.utime(one_file(folder), (1, 1))
    assert [entry.used for entry in entries()] == [1]
    read_record("test", "key")
    assert entries()[0].used > time.time() - 60


def test_an_entry_larger_than_the_limit_is_not_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store("small", b"small")
    monkeypatch.setenv(LIMIT_VARIABLE, "1K")
    assert store_file("blob", "key", 1025, lambda path: pytest.fail("called")) is None
    assert "the limit is 1024 bytes: set VEXPRESS_RT_CACHE_LIMIT" in caplog.text
    assert find_file("blob", "small") is not None


def test_an_entry_that_turns_out_larger_than_the_limit_is_not_stored(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "1K")
    assert store("key", b"x" * 1025, size=10) is None
    assert list(folder.iterdir()) == []


def test_an_entry_that_would_fill_the_disk_is_not_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage("/")
    free = DISK_RESERVE + 1000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    assert store("fits", b"x" * 1000) is not None
    assert store_file("blob", "key", 1001, lambda path: pytest.fail("called")) is None
    assert "the disk has 1.1 GB free" in caplog.text
    free = DISK_RESERVE - 1
    assert not write_record("test", "key", {})


@pytest.mark.parametrize(
    ("text", "limit"), [("", DEFAULT_LIMIT), ("123", 123), ("2K", 2048), ("3M", 3 << 20), ("4G", 4 << 30), ("0", 0)]
)
def test_the_limit_is_a_number_of_bytes(text: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    assert cache_settings().limit == limit


@pytest.mark.parametrize("text", ["-1", "1.5G", "much", "1 G", "٣", "9" * 30])
def test_another_limit_is_the_default_with_a_warning(
    text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    for _ in range(2):
        assert cache_settings().limit == DEFAULT_LIMIT
    (message,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "expected a number of bytes, or a number with K, M, G or T" in message.getMessage()


# The folder.


def test_the_folder_is_the_systems_place_for_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_settings().folder == tmp_path / "vexpress-rt" / "v1"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_settings().folder == tmp_path / ".cache" / "vexpress-rt" / "v1"


@pytest.mark.parametrize(("variable", "value"), [(FOLDER_VARIABLE, "off"), (LIMIT_VARIABLE, "0")])
def test_the_cache_can_be_off(
    user_cache: Path, variable: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(variable, value)
    assert not write_record("test", "key", RECORD)
    assert store_file("blob", "key", 1, lambda path: pytest.fail("called")) is None
    assert read_record("test", "key") is None
    assert find_file("blob", "key") is None
    with entry_lock("blob", "key", wait=0) as held:
        assert not held
    assert entries() == []
    assert clear() == 0
    assert not user_cache.exists()
    assert variable in cache_settings().reason
    assert caplog.text == ""


def test_a_relative_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(FOLDER_VARIABLE, "cache")
    assert not write_record("test", "key", RECORD)
    assert list(tmp_path.iterdir()) == []
    assert "the cache folder is 'cache'; expected an absolute path" in caplog.text


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*args: object, **options: object) -> Path:
        raise RuntimeError("no home directory")

    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setattr("platformdirs.user_cache_path", fails)
    assert not write_record("test", "key", RECORD)
    assert "no home directory" in caplog.text


def test_others_can_neither_read_nor_write_the_folder(folder: Path) -> None:
    write_record("test", "key", RECORD)
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_can_write_to_is_refused(
    folder: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    write_record("test", "key", RECORD)
    folder.chmod(mode)
    assert read_record("test", "key") is None
    assert not write_record("test", "key", RECORD)
    (message,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "others can write to it" in message.getMessage()


def test_a_folder_of_somebody_else_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_record("test", "key", RECORD)
    owner = folder.stat().st_uid
    if owner == 0:  # what root owns is trusted
        os.chown(folder, 4321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert read_record("test", "key") is None
    assert not write_record("test", "key", RECORD)
    assert "owns it; expected user" in caplog.text


def test_a_planted_link_is_refused(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "target")
    assert not write_record("test", "key", RECORD)
    assert store("key", b"content") is None
    assert list((tmp_path / "target").iterdir()) == []
    assert "it is a link or a file" in caplog.text


@pytest.mark.parametrize("place", ["folder", "its parent"])
def test_a_folder_that_is_a_file_is_no_failure(folder: Path, place: str, caplog: pytest.LogCaptureFixture) -> None:
    if place == "folder":
        folder.parent.mkdir()
        folder.touch()
    else:
        folder.parent.touch()
    assert not write_record("test", "key", RECORD)
    assert store("key", b"content") is None
    assert read_record("test", "key") is None
    assert find_file("blob", "key") is None
    assert len(caplog.records) == 1 + (place == "its parent")  # reading and writing fail differently


def test_a_folder_that_cannot_be_written_is_no_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The permission is denied by a stand-in, because root may write everywhere."""
    write_record("test", "key", RECORD)

    def denied(*args: object, **options: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("vexpress_rt.utils.partial_file._reserve", denied)
        patch.setattr(os, "utime", denied)
        patch.setattr("vexpress_rt.utils.file_lock._acquire", denied)
        assert not write_record("test", "other", RECORD)
        assert store("key", b"content") is None
        assert read_record("test", "key") == RECORD
    assert "Permission denied" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.INFO}


# Several processes.


def test_processes_that_store_the_same_key_at_once_leave_one_whole_entry(folder: Path) -> None:
    code = (
        "for turn in range(30):\n"
        "    content = os.urandom(50_000)\n"
        "    assert store_file('blob', 'key', len(content), lambda path: path.write_bytes(content))\n"
        "    assert write_record('test', 'key', {'is': content.hex()})\n"
        "    record = read_record('test', 'key')\n"
        "    assert record and len(record['is']) == 100_000"
    )
    with ExitStack() as stack:
        processes = [stack.enter_context(run(code)) for _ in range(3)]
        assert [process.wait(120) for process in processes] == [0, 0, 0]
    found = find_file("blob", "key")
    assert found is not None
    assert found.stat().st_size == 50_000
    record = read_record("test", "key")
    assert record is not None
    assert len(record["is"]) == 100_000
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_process_that_is_killed_while_it_stores_leaves_nothing_for_long(folder: Path) -> None:
    code = (
        "def write(path):\n"
        "    path.write_bytes(b'half'); print('writing', flush=True); time.sleep(60)\n"
        "store_file('blob', 'key', 10, write)"
    )
    with run(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert find_file("blob", "key") is None
        (partial,) = folder.iterdir()
        write_record("test", "key", RECORD)  # the process lives: its file stays
        assert partial.exists()
        process.send_signal(signal.SIGKILL)
    assert partial.exists()
    assert find_file("blob", "key") is None
    write_record("test", "key", RECORD)
    assert not partial.exists()


def test_one_process_at_a_time_holds_the_lock_of_an_entry(folder: Path) -> None:
    with run("with entry_lock('blob', 'key', wait=60) as held: print(held, flush=True); sys.stdin.read()") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with entry_lock("blob", "key", wait=0.01) as held:
            assert not held
        with entry_lock("blob", "other", wait=0.01) as held:
            assert held
        process.kill()
    with entry_lock("blob", "key", wait=60) as held:
        assert held
    assert list(folder.iterdir()) == []


def test_the_lock_of_an_entry_ends_with_an_exception(folder: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), entry_lock("blob", "key", wait=0):
            raise KeyboardInterrupt
    with entry_lock("blob", "key", wait=0) as held:
        assert held


def test_the_lock_is_waited_for() -> None:
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with entry_lock("blob", "waited", wait=10):
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    threading.Timer(0.3, done.set).start()
    with entry_lock("blob", "waited", wait=30) as held:
        assert held
        assert done.is_set()
    thread.join()


def test_a_wait_for_the_lock_ends_when_it_is_cancelled(folder: Path) -> None:
    cancelled, waiting = threading.Event(), threading.Event()

    def is_cancelled() -> bool:
        waiting.set()
        return cancelled.is_set()

    def wait() -> None:
        with pytest.raises(CancelledError, match="cancelled"), cancellable(is_cancelled), entry_lock("blob", "key", 60):
            pytest.fail("the lock is held by another thread")

    with entry_lock("blob", "key", wait=0) as held:
        assert held
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(wait)
            assert waiting.wait(10)
            cancelled.set()
            done.result(10)
    assert list(folder.iterdir()) == []


# The whole cache.


def test_all_entries_can_be_removed(folder: Path) -> None:
    write_record("test", "key", RECORD)
    store("key", b"x" * 1000)
    (folder / "foreign").write_text("stays")
    found = entries()
    assert {entry.kind for entry in found} == {"test", "blob", "verified_file"}
    assert clear() == sum(entry.size for entry in found) > 1000
    assert entries() == []
    assert one_file(folder).name == "foreign"


def test_one_record_is_removed_and_the_others_stay(folder: Path) -> None:
    for key in ("one", "other"):
        write_record("test", key, RECORD)
    assert remove_record("test", "one")
    assert not remove_record("test", "one")
    assert not remove_record("another", "other")
    assert (read_record("test", "one"), read_record("test", "other")) == (None, RECORD)


def test_no_test_uses_the_cache_of_the_user(shared_user_cache: Path) -> None:
    assert cache_settings().folder == shared_user_cache / "v1"
