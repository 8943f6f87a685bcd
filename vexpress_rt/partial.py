"""Files that are written under another name until they are complete, and those that killed processes left behind."""

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

from vexpress_rt.locking import is_at
from vexpress_rt.shutdown import at_end

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".vexpress-"
_ATTEMPTS = 100  # at a name that no sweep of another process takes away before it is locked
_NAME = re.compile(re.escape(_PREFIX) + r"(?:([0-9a-f]{8})-)?[0-9a-f]{12}\.\w{1,8}")  # the mark came later
_WEEK = 7 * 24 * 3600.0  # seconds
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """A new empty file beside `path`, with the usual permissions, to be written and moved to `path`; else removed.

    Its name is ".vexpress-", a mark of the running system, random digits and the suffix of `path`. While the block
    lasts the file is locked, and files of that kind that nobody has locked any more are removed from the folder first:
    their process was killed. Those with the mark of another system, from before a restart for instance, are removed
    when nothing was written to them for a week: a folder that machines share may have locks that each keeps to itself.
    The same holds where there are no locks (Windows, some network file systems). If the process ends inside the block,
    in another thread, the file is removed as well.

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
    """Remove the partial files in `folder` whose process has ended, as far as that can be known."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if (name := _NAME.fullmatch(entry.name)) is None:
                continue
            with suppress(OSError):
                old = time.time() - entry.stat(follow_symlinks=False).st_mtime > _WEEK
                if old or (fcntl is not None and name[1] == system_mark()):
                    _remove_abandoned(Path(entry), old=old)


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


def _remove_abandoned(partial: Path, *, old: bool) -> None:
    """Remove a file that can be locked, or is old where there are no locks. Another user's cannot be opened."""
    with suppress(OSError):
        handle = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(handle).st_mode) and _is_free(handle, old) and is_at(partial, handle):
                partial.unlink()
        finally:
            os.close(handle)


def _is_free(handle: int, old: bool) -> bool:
    locked = _locked(handle)
    return old if locked is None else locked


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
