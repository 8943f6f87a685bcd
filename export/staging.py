"""A folder that appears under its name only when complete."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

MARK = ".building-"


@contextmanager
def staged(output: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A new folder beside `output`, and a function that puts it in the place of `output`.

    Whatever was not put in place is removed, also on Ctrl-C and SIGTERM. Leftovers of builds whose process is gone are
    removed first.
    """
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(output)
    aside = output.with_name(f".{output.name}{MARK}{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()

    def commit() -> None:
        old = aside.with_name(aside.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if output.exists():
            output.rename(old)
        try:
            aside.rename(output)
        except OSError:
            if old.exists():
                old.rename(output)
            raise
        shutil.rmtree(old, ignore_errors=True)

    with _terminate_as_interrupt():
        try:
            yield aside, commit
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(output: Path) -> None:
    for path in output.parent.glob(f".{output.name}{MARK}*"):
        process = path.name.rpartition(MARK)[2].partition(".")[0]
        if process.isdigit() and not _alive(int(process)):
            if path.suffix == ".old" and not output.exists():  # stopped between the two renames: the old one stands
                path.rename(output)
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside, so that clean-up runs. Only the main thread may set handlers."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
