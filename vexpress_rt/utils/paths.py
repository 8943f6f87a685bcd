"""Checks of the paths that a caller passes."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from vexpress_rt.config import brief
from vexpress_rt.errors import ConfigError, InputError, VExpressError


def input_file(source: str | os.PathLike[str], what: str, expected: str, error: type[InputError]) -> Path:
    """Return the path of a regular file. A pipe or a device could be read forever.

    Args:
        source: The path.
        what: The kind of input for messages, such as "the audio".
        expected: The expected file for messages.
        error: The exception to raise.

    Raises:
        error: There is no regular file with this name.
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
    """Convert a string or path object to a Path.

    Args:
        source: The path.
        what: The kind of input for messages, such as "the audio".
        error: The exception to raise.

    Raises:
        error: `source` is anything else, including bytes.
    """
    try:
        return Path(source)
    except Exception as cause:  # a user-defined type may raise anything
        raise error(f"{what} is {brief(source)}; expected a path: pass a string or a pathlib.Path") from cause


def folder_path(folder: Any, what: str) -> Path:
    """Convert the path of a folder, which need not exist, to a Path.

    Args:
        folder: The path.
        what: The folder's name in messages.

    Raises:
        ConfigError: `folder` is not a path, is empty, or has an invalid name.
    """
    path = as_path(folder, what, ConfigError)
    try:
        if os.fspath(folder) and b"\0" not in os.fsencode(path):
            return path
    except ValueError:  # half a surrogate pair
        pass
    raise ConfigError(f"{what} is {brief(folder)}; expected the path of a folder: check it")


def same_file(one: object, other: Path) -> bool:
    """Return whether a value is a path that leads to a file.

    Args:
        one: A path, or any other value.
        other: The path of the file.
    """
    if not isinstance(one, (str, os.PathLike)):
        return False
    try:
        return os.path.samefile(one, other)
    except Exception:  # no such file, or not a path
        return False
