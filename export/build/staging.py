"""A folder that appears under its name only when complete."""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from vexpress_rt.errors import OutputError, VExpressError
from vexpress_rt.utils.entry import Stopped

MARK = ".building-"
OLD = ".old"


@contextmanager
def staged(output: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A new folder beside `output`, and a function that puts it in the place of `output`.

    Whatever was not put in place is removed, also on Ctrl-C, SIGTERM and SIGHUP; what processes left behind
    that were killed is removed first. Raises OutputError where the disk refuses something.
    """
    try:
        output = output.resolve()
        aside = output.with_name(f".{output.name}{MARK}{secrets.token_hex(4)}")
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; the root folder
        raise OutputError(f"{output} cannot be a bundle or checkpoint ({error}): choose another folder") from error
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(output)
        with _terminate_as_interrupt(), _removed_at_end(aside):
            yield aside, lambda: _put_in_place(aside, output)
    except VExpressError:
        raise
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error}: check folder, permissions and free space") from error


def _put_in_place(aside: Path, output: Path) -> None:
    old = aside.with_name(aside.name + OLD)
    with _interrupts_deferred():
        if output.exists():
            output.rename(old)
        try:
            aside.rename(output)
        except OSError:
            if old.exists():
                old.rename(output)
            raise
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _removed_at_end(folder: Path) -> Iterator[None]:
    """Make `folder`, hold its lock inside, and remove it."""
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(output: Path) -> None:
    for path in output.parent.glob(f".{glob.escape(output.name)}{MARK}*"):
        if _is_in_use(path.with_name(path.name.removesuffix(OLD))):
            continue
        if path.suffix == OLD and not output.exists():  # killed between two renames: this is the bundle
            path.rename(output)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _lock(handle: int) -> bool:
    """Take the lock of an open folder, which ends with the process, however that ends. False if it is not to be had."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process; or a file system without locks, where leftovers then stay
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


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Stopped, a KeyboardInterrupt, inside, so that clean-up runs."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Stopped

    with _handling(interrupt, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP wait until the end of the block."""
    came: list[int] = []
    with _handling(lambda number, frame: came.append(number), signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield
    if came:
        raise Stopped


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None], *signals: signal.Signals) -> Iterator[None]:
    """`handler` for these signals inside, but for those that are ignored, as SIGHUP is under nohup.

    Only the main thread may set handlers; in others nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [number for number in signals if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    previous = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
