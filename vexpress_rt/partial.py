"""Files that are written under another name until they are complete, and those that killed processes left behind."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vexpress_rt.locking import is_at
from vexpress_rt.shutdown import at_end

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".vexpress-"
_ATTEMPTS = 100  # at a name that no sweep of another process takes away before it is locked
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """A new empty file beside `path`, with the usual permissions, to be written and moved to `path`; else removed.

    Its name is ".vexpress-", a mark of the running system, random digits and the suffix of `path`. While the block
    lasts the file is locked, and files of that kind that nobody has locked any more are removed from the folder first:
    their process was killed. Those with the mark of another system are left alone: a folder that machines share may
    have locks that each keeps to itself. So leftovers from before a restart stay, and so they do where there are no
    locks (Windows, some network file systems). If the process ends inside the block, in another thread, the file is
    removed as well.

    Raises OSError where the file cannot be made.
    """
    sweep(path.parent)
    partial, handle = _reserve(path)
    try:
        with at_end(functools.partial(partial.unlink, missing_ok=True)):
            yield partial
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the partial files in `folder` whose process, of this system, has ended."""
    if fcntl is None:
        return
    name = re.compile(re.escape(f"{_PREFIX}{system_mark()}-") + r"[0-9a-f]{12}\.\w{1,8}")
    with suppress(OSError):
        for entry in [Path(entry) for entry in os.scandir(folder) if name.fullmatch(entry.name)]:
            _remove_abandoned(entry)


@functools.cache
def system_mark() -> str:
    """Eight hexadecimal digits that are the same in all processes, also of containers, of the running system alone."""
    try:
        system = _BOOT.read_text()
    except OSError:
        import platform

        system = f"{sys.platform} {platform.node()}"
    return hashlib.sha256(system.encode()).hexdigest()[:8]


def _reserve(path: Path) -> tuple[Path, int]:
    for _ in range(_ATTEMPTS):
        partial = path.with_name(f"{_PREFIX}{system_mark()}-{secrets.token_hex(6)}{path.suffix}")
        handle = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if _locked(handle) is not False and is_at(partial, handle):
            return partial, handle
        os.close(handle)  # a sweep came between
    raise OSError(f"another process removes {_PREFIX}* in {path.parent} as soon as they are made")


def _remove_abandoned(partial: Path) -> None:
    """Remove a file that can be locked. What cannot be opened or removed is somebody else's."""
    with suppress(OSError):
        handle = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(handle).st_mode) and _locked(handle) and is_at(partial, handle):
                partial.unlink()
        finally:
            os.close(handle)


def _locked(handle: int) -> bool | None:
    """Take the lock of an open file, which ends with the process. False if another has it, None if there are none."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
