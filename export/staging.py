"""Directories that appear under their name only when they are complete."""

from __future__ import annotations

import glob
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from vexpress_rt.errors import OutputError, VExpressError
from vexpress_rt.utils.file_lock import FOLDER_LOCK, locked_folder
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
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        with suppress(OSError):  # a file system without locks, where abandoned directories stay
            stack.enter_context(locked_folder(folder))
        yield


def _remove_abandoned(output: Path) -> None:
    for path in list(output.parent.glob(f".{glob.escape(output.name)}{MARK}*")):
        # The check of a directory that is not in use also removes the file of its lock.
        if _is_in_use(path.with_name(path.name.removesuffix(FOLDER_LOCK).removesuffix(OLD))):
            continue
        if path.suffix == OLD and not output.exists():  # killed between the two renames: this is the bundle
            path.rename(output)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_in_use(folder: Path) -> bool:
    try:
        with locked_folder(folder) as locked:
            return not locked
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's
        raise
    except OSError:  # a file system without locks
        return True
