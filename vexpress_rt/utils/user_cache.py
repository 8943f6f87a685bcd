"""The user's cache: small JSON records and large files that later processes reuse.

Everything in it can be made again, so no failure of the cache fails the work that uses it: an entry that cannot be read
is missing, and one that cannot be stored is not stored. The reason goes to the log.

The folder is that of VEXPRESS_RT_CACHE_DIR, else the system's place for caches ($XDG_CACHE_HOME or ~/.cache on Linux).
In it, the subfolder `v1` belongs to the user and nobody else can write there; a subfolder of another owner, or a link,
is refused. An entry is one file with a name made of its kind, the hash of its key and, for large files, the hash of its
content. It appears under its name when it is complete, and its hash is compared before it is used; that of a large file
once for each version of the file, which a record names.

The entries together take at most VEXPRESS_RT_CACHE_LIMIT bytes: the least recently used are removed first.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from vexpress_rt.config import brief
from vexpress_rt.errors import OutputError
from vexpress_rt.utils.cancellation import check_cancelled
from vexpress_rt.utils.file_lock import locked
from vexpress_rt.utils.file_version import FileVersion
from vexpress_rt.utils.partial_file import partial_file, sweep

FOLDER_VARIABLE = "VEXPRESS_RT_CACHE_DIR"
LIMIT_VARIABLE = "VEXPRESS_RT_CACHE_LIMIT"
OFF = "off"  # value of FOLDER_VARIABLE
DEFAULT_LIMIT = 10 << 30  # bytes; the compiled engines of the half-width model take 3.5 GB
DISK_RESERVE = 1 << 30  # bytes of the disk that stay free
RECORD_LIMIT = 1 << 20  # bytes of one record

_FORMAT = "v1"  # a version that changes the form of entries takes another subfolder
_KIND = re.compile(r"[a-z][a-z_]{0,31}")
_ENTRY = re.compile(r"([a-z][a-z_]{0,31})-[0-9a-f]{32}(?:-[0-9a-f]{64})?\.(?:json|bin)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_VERIFIED = "verified_file"  # kind of the records of large files with the right hash
_CHUNK = 16 << 20  # bytes of a file that are hashed together; part of the hash's definition
_BLOCK = 1 << 18  # bytes that are read at once; they fit into a core's own cache
_HASH_THREADS = 4

_log = logging.getLogger("vexpress_rt")


@dataclass(frozen=True)
class Entry:
    """An entry of the cache.

    Attributes:
        kind: Its kind, such as "openvino_engine".
        path: Its file.
        size: Bytes.
        used: When it was last stored or read, in seconds since 1970.
    """

    kind: str
    path: Path
    size: int
    used: float


@dataclass(frozen=True)
class CacheSettings:
    """The settings of the cache, from the environment.

    Attributes:
        folder: The folder that contains the entries; it may not exist yet. None if the cache is off.
        limit: Bytes that all entries together may take.
        reason: Why the cache is off, as text; empty if it is on.
    """

    folder: Path | None
    limit: int
    reason: str = ""


def cache_settings() -> CacheSettings:
    """Read the environment: VEXPRESS_RT_CACHE_DIR and VEXPRESS_RT_CACHE_LIMIT.

    Invalid values turn the cache off, or give the default limit, with a warning in the log.
    """
    limit = _limit()
    chosen = os.environ.get(FOLDER_VARIABLE, "")
    if chosen == OFF:
        return CacheSettings(None, limit, f"{FOLDER_VARIABLE} is {OFF!r}")
    if not limit:
        return CacheSettings(None, limit, f"{LIMIT_VARIABLE} is 0")
    try:
        folder = Path(chosen) if chosen else _default_folder()
    except Exception as error:  # RuntimeError: the user has no home directory
        folder, chosen = Path(), f"unknown ({error})"
    if not folder.is_absolute():
        reason = f"the cache folder is {brief(chosen or str(folder))}; expected an absolute path: set {FOLDER_VARIABLE}"
        _log_once(logging.WARNING, reason)
        return CacheSettings(None, limit, reason)
    return CacheSettings(folder / _FORMAT, limit)


def read_record(kind: str, key: str) -> dict[str, Any] | None:
    """Return a stored record.

    Args:
        kind: The kind of record: lower-case letters and "_".
        key: Text that tells the record from others of its kind, of any length.

    Returns:
        The record, as JSON gives it back: tuples have become lists. Its hash matches, but the caller checks its fields,
        because another version of this package may have written them. None if there is none.
    """
    path = _path(kind, key, ".json")
    if path is None or (content := _content(path)) is None:
        return None
    try:
        return _parse(content, kind, key)
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        _remove_damaged(path, str(error))
        return None


def write_record(kind: str, key: str, record: Mapping[str, Any]) -> bool:
    """Store a record in the place of the previous one.

    Args:
        kind: The kind of record: lower-case letters and "_".
        key: Text that tells the record from others of its kind, of any length.
        record: Values that JSON can hold, with text as keys; no NaN and no infinity.

    Returns:
        Whether it is stored.

    Raises:
        TypeError: JSON cannot hold a value.
        ValueError: A number is not finite, or the record is larger than RECORD_LIMIT.
    """
    text = _canonical(dict(record))
    content = _canonical({"kind": kind, "key": key, "sha256": _record_hash(kind, key, text), "record": record}).encode()
    if len(content) > RECORD_LIMIT:
        raise ValueError(f"the record has {len(content)} bytes; expected at most {RECORD_LIMIT}")

    def write(partial: Path) -> None:
        partial.write_bytes(content)

    return _store(kind, key, ".json", len(content), write) is not None


def remove_record(kind: str, key: str) -> bool:
    """Remove a record, and return whether there was one.

    Args:
        kind: The kind of record: lower-case letters and "_".
        key: Text that tells the record from others of its kind.
    """
    path = _path(kind, key, ".json")
    return path is not None and _remove(path)


def find_file(kind: str, key: str) -> Path | None:
    """Return a stored file after comparing its hash; damaged files are removed.

    The file may be removed at any time, by a process that stores others. Open it at once; an open file stays readable.

    Args:
        kind: The kind of file: lower-case letters and "_".
        key: Text that tells the file from others of its kind, of any length.

    Returns:
        The file. None if there is none.
    """
    folder = _usable(create=False)
    if folder is None:
        return None
    found = [one for one in _entries(folder) if one.path.name.startswith(f"{_stem(kind, key)}-")]
    for entry in reversed(found):
        try:
            verified = {"version": FileVersion.of(entry.path.lstat()).to_json()}
            if read_record(_VERIFIED, entry.path.name) != verified:
                digest = file_hash(entry.path)
                if not entry.path.stem.endswith(f"-{digest}"):
                    _remove_damaged(entry.path, f"its content has the hash {digest}")
                    continue
        except OSError as error:
            _log_once(logging.INFO, f"the cache's {entry.path} cannot be read: {error}")
            continue
        _touch(entry.path)
        _record_verified(entry.path)
        return entry.path
    return None


def store_file(kind: str, key: str, size: int, write: Callable[[Path], object]) -> Path | None:
    """Store a file in the place of the previous one.

    Args:
        kind: The kind of file: lower-case letters and "_".
        key: Text that tells the file from others of its kind, of any length.
        size: Its expected size in bytes. If the limit or the disk has no room for it, `write` is not called.
        write: Writes the content to the path that it gets, an empty file. Its OSError means that nothing is stored;
            other exceptions are raised as they are.

    Returns:
        The stored file; None if it is not stored. It may be removed at any time, as with `find_file`.
    """
    return _store(kind, key, ".bin", size, write)


@contextmanager
def entry_lock(kind: str, key: str, wait: float) -> Iterator[bool]:
    """Hold the lock of an entry during the block, so that one process at a time makes it.

    Args:
        kind: The kind of entry.
        key: Its key.
        wait: Seconds after which the block starts without the lock, so that a stopped process cannot stop others.

    Yields:
        Whether the lock is held. It is not held after `wait` seconds, or if the cache cannot be written to.

    Raises:
        CancelledError: The wait was cancelled (`cancellation.cancellable`).
    """
    folder = _usable(create=True)
    held, end = False, time.monotonic() + wait

    def waiting() -> None:
        check_cancelled()
        if time.monotonic() > end:
            raise _NotAcquiredError

    if folder is None:
        yield False
        return
    lock = locked(folder / f"{_stem(kind, key)}.lock", waiting)
    try:
        lock.__enter__()
        held = True
    except (_NotAcquiredError, OutputError) as error:
        if isinstance(error, OutputError):
            _log_once(logging.INFO, str(error))
    try:
        yield held
    finally:
        if held:
            lock.__exit__(None, None, None)


def remove_file(kind: str, key: str) -> None:
    """Remove a stored file.

    Args:
        kind: The kind of file.
        key: Its key.
    """
    if folder := _usable(create=False):
        for entry in _entries(folder):
            if entry.path.name.startswith(f"{_stem(kind, key)}-"):
                _remove(entry.path)


def entries() -> list[Entry]:
    """Return all entries, the least recently used first."""
    folder = _usable(create=False)
    return [] if folder is None else _entries(folder)


def clear() -> int:
    """Remove all entries, and the partial files of processes that were killed.

    Returns:
        The bytes that are free now.
    """
    folder = _usable(create=False)
    if folder is None:
        return 0
    sweep(folder)
    return sum(entry.size for entry in _entries(folder) if _remove(entry.path))


def file_hash(path: Path) -> str:
    """Return the hash of a file as the cache defines it: 64 hexadecimal digits. Chunks are hashed side by side.

    It is the sha256 of the sha256 values of all chunks of 16 MiB, in order, and of the size as 8 bytes.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read, or another process shortens it meanwhile.
    """
    size = path.stat().st_size
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        digests = list(pool.map(functools.partial(_chunk_hash, path, size), range(0, size, _CHUNK)))
    return hashlib.sha256(b"".join(digests) + size.to_bytes(8, "big")).hexdigest()


class _NotAcquiredError(Exception):
    """The lock was not acquired in time."""


def _chunk_hash(path: Path, size: int, start: int) -> bytes:
    digest, left = hashlib.sha256(), min(_CHUNK, size - start)
    buffer = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while left:
            count = file.readinto(buffer[: min(_BLOCK, left)])
            if not count:
                raise OSError(f"{path} ends before byte {size}")
            digest.update(buffer[:count])
            left -= count
    return digest.digest()


def _default_folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("vexpress-rt", appauthor=False)


def _limit() -> int:
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return DEFAULT_LIMIT
    if found := re.fullmatch(r"(\d{1,18})([KMGT]?)", text, re.ASCII):
        return int(found[1]) * _UNITS[found[2]]
    _log_once(
        logging.WARNING,
        f"{LIMIT_VARIABLE} is {brief(text)}; expected a number of bytes, or a number with K, M, G or T such as 20G: "
        f"{DEFAULT_LIMIT >> 30}G is used",
    )
    return DEFAULT_LIMIT


def _usable(*, create: bool) -> Path | None:
    """Return the folder of the entries if it is there, or can be made, and is this user's alone."""
    folder = cache_settings().folder
    if folder is None:
        return None
    try:
        if create:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        found = folder.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log_once(logging.INFO, f"the cache folder {folder} cannot be used: {error}: set {FOLDER_VARIABLE}")
        return None
    if unsafe := _unsafe_reason(found):
        _log_once(
            logging.WARNING, f"the cache folder {folder} is not used: {unsafe}: remove it or set {FOLDER_VARIABLE}"
        )
        return None
    return folder


def _unsafe_reason(found: os.stat_result) -> str:
    """Return why a folder's entries are not trusted; an empty text if they are."""
    if not stat.S_ISDIR(found.st_mode):
        return "it is a link or a file; expected a folder"
    if not hasattr(os, "geteuid"):  # Windows: the folders of a user's profile have access lists instead
        return ""
    if found.st_uid not in (os.geteuid(), 0):
        return f"user {found.st_uid} owns it; expected user {os.geteuid()} or root"
    if found.st_mode & 0o022:
        return f"others can write to it (mode {stat.S_IMODE(found.st_mode):o}); expected mode 700"
    return ""


def _stem(kind: str, key: str) -> str:
    if not _KIND.fullmatch(kind):
        raise ValueError(f"the kind of a cache entry is {brief(kind)}; expected lower-case letters and '_'")
    return f"{kind}-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _path(kind: str, key: str, suffix: str) -> Path | None:
    stem, folder = _stem(kind, key), _usable(create=False)
    return None if folder is None else folder / f"{stem}{suffix}"


def _store(kind: str, key: str, suffix: str, size: int, write: Callable[[Path], object]) -> Path | None:
    stem, limit, folder = _stem(kind, key), cache_settings().limit, _usable(create=True)
    if folder is None:
        return None
    try:
        _make_room(folder, limit, size)
        with partial_file(folder / f"entry{suffix}") as partial:
            write(partial)
            written = partial.stat().st_size
            if written > size:
                _make_room(folder, limit, written, on_disk=written)
            name = stem if suffix == ".json" else f"{stem}-{file_hash(partial)}"
            path = folder / f"{name}{suffix}"
            partial.replace(path)
        for entry in _entries(folder):  # only older ones: two processes that store at once keep the newer entry
            if entry.path == path:
                break
            if entry.path.name.startswith(f"{stem}-"):
                _remove(entry.path)
        if suffix == ".bin":
            _record_verified(path)
        return path
    except OSError as error:
        _log_once(logging.INFO, f"an entry of {size / 1e6:.1f} MB is not stored in the cache folder {folder}: {error}")
        return None


def _record_verified(path: Path) -> None:
    """Record that the current version of a large file has the right hash."""
    with suppress(OSError):  # another process has removed it
        write_record(_VERIFIED, path.name, {"version": FileVersion.of(path.lstat()).to_json()})


def _make_room(folder: Path, limit: int, size: int, on_disk: int = 0) -> None:
    """Remove the least recently used entries until another of `size` bytes fits.

    Of these, `on_disk` bytes are on the disk already. Raises OSError if the limit or the disk has no room.
    """
    if size > limit:
        raise OSError(f"the limit is {limit} bytes: set {LIMIT_VARIABLE}")
    free = shutil.disk_usage(folder).free
    if free - (size - on_disk) < DISK_RESERVE:
        raise OSError(f"the disk has {free / 1e9:.1f} GB free; expected {(size - on_disk + DISK_RESERVE) / 1e9:.1f} GB")
    found = _entries(folder)
    total = sum(entry.size for entry in found) + size
    for entry in found:
        if total <= limit:
            return
        _remove(entry.path)
        total -= entry.size


def _entries(folder: Path) -> list[Entry]:
    """Return the entries of a folder, the least recently used first."""
    found = []
    with suppress(OSError), os.scandir(folder) as listing:
        for one in listing:
            if name := _ENTRY.fullmatch(one.name):
                with suppress(OSError):
                    status = one.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        found.append(Entry(name[1], Path(one), status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: (entry.used, entry.path.name))


def _content(path: Path) -> bytes | None:
    """Return the content of a record's file, and mark the file as used."""
    flags = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            content = file.read(RECORD_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log_once(logging.INFO, f"the cache's {path} cannot be read: {error}")
        return None
    _touch(path)
    return content


def _parse(content: bytes, kind: str, key: str) -> dict[str, Any]:
    if len(content) > RECORD_LIMIT:
        raise ValueError(f"it has more than {RECORD_LIMIT} bytes")
    data = json.loads(content.decode("utf-8"), parse_constant=_no_constant, parse_int=_short_integer)
    if type(data) is not dict or type(data.get("record")) is not dict:
        raise ValueError("it holds no record")
    record: dict[str, Any] = data["record"]
    if (data["kind"], data["key"]) != (kind, key):
        raise ValueError(f"it is the record of {brief(data['key'])}")
    if data["sha256"] != _record_hash(kind, key, _canonical(record)):
        raise ValueError("its content has another hash")
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


def _short_integer(digits: str) -> int:
    if len(digits) > 40:
        raise ValueError(f"it holds the number {brief(digits)}")
    return int(digits)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def _record_hash(kind: str, key: str, text: str) -> str:
    return hashlib.sha256(_canonical([kind, key, text]).encode()).hexdigest()


def _touch(path: Path) -> None:
    with suppress(OSError):  # a folder that can only be read
        os.utime(path)


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:  # another process was faster; or on Windows, one has it open
        return False
    return True


def _remove_damaged(path: Path, fault: str) -> None:
    _log_once(logging.INFO, f"the cache's {path} is damaged and is removed: {fault}")
    _remove(path)


_logged: set[str] = set()
_log_lock = threading.Lock()


def _log_once(level: int, message: str) -> None:
    """Log a message, once per process."""
    with _log_lock:
        first = message not in _logged
        _logged.add(message)
    if first:
        _log.log(level, "%s", message)
