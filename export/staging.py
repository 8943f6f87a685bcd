"""Directories that appear under their name only when they are complete."""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from vexpress_rt.errors import OutputError, VExpressError
from vexpress_rt.utils.signals import run_uninterrupted

MARK = ".building-"  # in the names of staging directories
OLD = ".old"  # suffix of a directory that is being replaced


@contextmanager
def staged(output: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Create a staging directory beside `output`, and remove it at the end of the block unless it was committed.

    It is also removed by a command that a signal ends (`vexpress_rt.utils.signals.GracefulShutdown`). Staging
    directories of `output` whose process was killed are removed first; each process holds a lock on its own.

    Args:
        output: The final directory. A symbolic link is followed.

    Yields:
        The staging directory, and a function that moves it to `output`, replacing a directory there.

    Raises:
        OutputError: The directory cannot be created, written or moved.
    """
    try:
        output = output.resolve()
        staging = output.with_name(f".{output.name}{MARK}{secrets.token_hex(4)}")
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; the root folder
        raise OutputError(f"{output} cannot be a bundle or checkpoint ({error}): choose another folder") from error
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(output)
        with _locked_directory(staging):
            yield staging, lambda: run_uninterrupted(partial(_commit, staging, output))
    except VExpressError:
        raise
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error}: check folder, permissions and free space") from error


def _commit(staging: Path, output: Path) -> None:
    old = staging.with_name(staging.name + OLD)
    if output.exists():
        output.rename(old)
    try:
        staging.rename(output)
    except OSError:
        if old.exists():
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _locked_directory(folder: Path) -> Iterator[None]:
    """Create `folder`, hold its lock during the block, and remove it."""
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(output: Path) -> None:
    for path in output.parent.glob(f".{glob.escape(output.name)}{MARK}*"):
        if _is_in_use(path.with_name(path.name.removesuffix(OLD))):
            continue
        if path.suffix == OLD and not output.exists():  # killed between the two renames: this is the bundle
            path.rename(output)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _lock(handle: int) -> bool:
    """Lock an open directory until it is closed or the process ends. False if that is impossible."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks, where abandoned directories stay
        return False
    return True


def _is_in_use(folder: Path) -> bool:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _lock(handle)
    finally:
        os.close(handle)
