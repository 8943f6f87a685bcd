"""Partial files: files under a temporary name until they are complete, and the removal of abandoned ones."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from vexpress_rt.utils.file_lock import is_at
from vexpress_rt.utils.native_calls import cleanup_at_exit

_LOCKABLE = os.name != "nt"  # on Windows, a file that is open or locked can be neither written elsewhere nor renamed
_PREFIX = ".vexpress-"
_ATTEMPTS = 100  # another process can remove a new file before it is locked
_NAME = re.compile(re.escape(_PREFIX) + r"(?:([0-9a-f]{8})-)?[0-9a-f]{12}\.\w{1,8}")  # older versions: no boot ID
_WEEK = 7 * 24 * 3600.0  # seconds
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Create an empty partial file beside `path`, and remove it at the end of the block unless it was moved.

    Its name consists of ".vexpress-", the boot ID, random digits and the suffix of `path`. The file is locked during
    the block. Before it is created, partial files of this boot without a lock are removed from the folder, because
    their process was killed. Files of another boot ID are removed after a week without a write: a shared folder may be
    on a file system whose locks are local to each machine. The same holds where files are not locked (Windows, some
    network file systems). If the process exits while another thread is inside the block, the file is removed as well.

    Args:
        path: The name of the complete file. The caller moves the partial file there.

    Yields:
        The path of the partial file, which has the usual permissions.

    Raises:
        OSError: The file cannot be created.
    """
    sweep(path.parent)
    partial, handle = _reserve(path)
    try:
        with cleanup_at_exit(functools.partial(partial.unlink, missing_ok=True)):
            yield partial
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the partial files in `folder` whose process has ended, as far as that can be known."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if (name := _NAME.fullmatch(entry.name)) is None:
                continue
            with suppress(OSError):
                old = time.time() - entry.stat(follow_symlinks=False).st_mtime > _WEEK
                if old or (_LOCKABLE and name[1] == boot_id()):
                    _remove_abandoned(Path(entry), old=old)


@functools.cache
def boot_id() -> str:
    """Return eight hexadecimal digits that all processes, also in containers, share until the system restarts."""
    try:
        system = _BOOT.read_text()
    except OSError:
        import platform

        system = f"{sys.platform} {platform.node()}"
    return hashlib.sha256(system.encode()).hexdigest()[:8]


def _reserve(path: Path) -> tuple[Path, int | None]:
    """Create and lock a partial file. Returns its path and the open file, which is None where files are not locked."""
    for _ in range(_ATTEMPTS):
        partial = path.with_name(f"{_PREFIX}{boot_id()}-{secrets.token_hex(6)}{path.suffix}")
        handle = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if not _LOCKABLE:
            os.close(handle)
            return partial, None
        if _locked(handle) is not False and is_at(partial, handle):
            return partial, handle
        os.close(handle)  # another process swept the folder in between
    raise OSError(f"another process removes each {_PREFIX}* file in {path.parent} before it can be locked")


def _remove_abandoned(partial: Path, *, old: bool) -> None:
    """Remove a file that can be locked, or that is old where locks are missing.

    A file that cannot be opened or removed belongs to another user, and stays.
    """
    with suppress(OSError):
        if not _LOCKABLE:
            if old and stat.S_ISREG(partial.lstat().st_mode):
                partial.unlink()
            return
        handle = os.open(partial, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            if stat.S_ISREG(os.fstat(handle).st_mode) and _is_free(handle, old) and is_at(partial, handle):
                partial.unlink()
        finally:
            os.close(handle)


def _is_free(handle: int, old: bool) -> bool:
    locked = _locked(handle)
    return old if locked is None else locked


def _locked(handle: int) -> bool | None:
    """Lock an open file until it is closed. False if another process holds the lock, None where locks are missing."""
    try:
        return lock_descriptor(handle, blocking=False)
    except OSError:
        return None
