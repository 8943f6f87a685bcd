"""Paths that a caller names: files to read, and what is already there under them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from vexpress_rt.config import brief
from vexpress_rt.errors import ConfigError, InputError, VExpressError


def input_file(source: str | os.PathLike[str], what: str, expected: str, error: type[InputError]) -> Path:
    """The path of a regular file to be read. `what` ("the audio"), `expected` and `error` are for complaints.

    Raises `error` where there is none: a pipe or a device could be read for ever, and a name that the system cannot
    take is no name.
    """
    path = as_path(source, what, error)
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError) as cause:  # ValueError: a NUL or half a surrogate pair in the name
        found = "does not exist" if isinstance(cause, FileNotFoundError) else f"cannot be reached ({cause})"
        raise error(f"{what} {path} {found}; expected {expected}: check the path") from cause
    if not stat.S_ISREG(kind):
        raise error(f"{what} {path} is a folder or a device; expected {expected}: check the path")
    return path


def as_path(source: Any, what: str, error: type[VExpressError]) -> Path:
    """Convert a string or path object to a Path. Raises `error` for anything else, including bytes."""
    try:
        return Path(source)
    except Exception as cause:  # a user-defined type may raise anything
        raise error(f"{what} is {brief(source)}; expected a path: pass a string or a pathlib.Path") from cause


def folder_path(folder: Any, what: str) -> Path:
    """Convert the path of a folder. Raises ConfigError for anything else, for an empty path and for an invalid name."""
    path = as_path(folder, what, ConfigError)
    try:
        if os.fspath(folder) and b"\0" not in os.fsencode(path):
            return path
    except ValueError:  # half a surrogate pair
        pass
    raise ConfigError(f"{what} is {brief(folder)}; expected the path of a folder: check it")


def same_file(one: object, other: Path) -> bool:
    """Whether `one` is the path of the file `other`."""
    if not isinstance(one, (str, os.PathLike)):
        return False
    try:
        return os.path.samefile(one, other)
    except Exception:  # no such file, or not a path
        return False
