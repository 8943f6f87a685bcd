"""Locks between processes. The system releases a lock when the process that holds it ends, even by a crash."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from vexpress_rt.errors import OutputError

# `filelock.FileLock` leaves its file behind, and two processes can both hold it if its folder is replaced. So only the
# lock of an open file is filelock's.

FOLDER_LOCK = ".lock"  # suffix of the file whose lock is that of a folder, on Windows
_FOLDERS_OPEN = os.name != "nt"
_POLL = 0.2  # seconds between two attempts; waiting inside the system call would delay the handler of Ctrl-C


@contextmanager
def locked(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the lock of a file during the block.

    The file exists while a process holds the lock or waits for it. (On Windows it stays.)

    Args:
        path: The file.
        waiting: Called repeatedly while another process or thread holds the lock. An exception from it ends the wait.

    Raises:
        OutputError: The file cannot be created, or its file system has no locks.
    """
    handle = _acquire(path, waiting)
    try:
        yield
    finally:
        if is_at(path, handle):
            with suppress(OSError):
                path.unlink()  # before the lock is released, so that waiting processes notice that the file is gone
        os.close(handle)


@contextmanager
def locked_folder(folder: Path) -> Iterator[bool]:
    """Try to lock a folder during the block, without waiting.

    Windows opens no folders, and renames none with an open file inside. There, the lock is that of a file beside the
    folder, with the suffix FOLDER_LOCK, which is removed at the end.

    Args:
        folder: The folder. It may be renamed or removed during the block.

    Yields:
        Whether the folder is locked now. It is not if another process, or another block of this one, holds the lock.

    Raises:
        FileNotFoundError: There is no such folder. (On Windows, there is no folder that it could be in.)
        OSError: The folder cannot be opened, or its file system has no locks.
    """
    file = folder.with_name(folder.name + FOLDER_LOCK)
    handle = os.open(folder, os.O_RDONLY) if _FOLDERS_OPEN else os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    acquired = False
    try:
        acquired = lock_descriptor(handle, blocking=False)
        yield acquired
    finally:
        os.close(handle)
        if acquired and not _FOLDERS_OPEN:
            with suppress(OSError):  # another process has opened it since: Windows removes no open files
                file.unlink()


def _acquire(path: Path, waiting: Callable[[], object]) -> int:
    while True:
        try:  # for writing, because NFS locks no other files
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise _refused(path, error) from error
        acquired = False
        try:
            if lock_descriptor(handle, blocking=False):
                acquired = is_at(path, handle)  # else it was removed, or its folder replaced, since it was opened
            else:
                waiting()
                time.sleep(_POLL)
        except OSError as error:
            raise _refused(path, error) from error
        finally:
            if not acquired:
                os.close(handle)
        if acquired:
            return handle


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be locked: {error}: make its folder one that can be written to, on a file system with locks"
    )


def is_at(path: Path, handle: int) -> bool:
    """Return whether a path still leads to an open file.

    Args:
        path: The path.
        handle: Descriptor of the open file.
    """
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except OSError:
        return False
