"""A lock that processes hold one at a time, and that ends with its holder, however that ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vexpress_rt.errors import OutputError

_PAUSE = 0.2  # seconds between two attempts; waiting in the kernel would put off a handler of Ctrl-C


@contextmanager
def locked(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the lock of the file `path`, which is there as long as somebody holds or wants it.

    waiting: called again and again while another process, or thread, holds it; what it raises ends the waiting.
    Raises OutputError where the file cannot be made, or where the file system has no locks.
    """
    handle = _acquire(path, waiting)
    try:
        yield
    finally:
        if is_at(path, handle):
            with suppress(OSError):
                path.unlink()  # before it is let go: whoever waits for it sees that it is no longer there
        os.close(handle)


def _acquire(path: Path, waiting: Callable[[], object]) -> int:
    try:
        import fcntl
    except ImportError as error:
        raise OutputError(f"{path} cannot be locked: this system has no flock: use another") from error
    while True:
        try:  # for writing, because NFS locks no other files
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise _refused(path, error) from error
        held = False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = is_at(path, handle)  # else it was removed, or its folder replaced, since it was opened
        except BlockingIOError:
            waiting()
            time.sleep(_PAUSE)
        except OSError as error:
            raise _refused(path, error) from error
        finally:
            if not held:
                os.close(handle)
        if held:
            return handle


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be locked: {error}: make its folder one that can be written to, on a file system with locks"
    )


def is_at(path: Path, handle: int) -> bool:
    """Whether the open file is the one that now has this name."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except OSError:
        return False
