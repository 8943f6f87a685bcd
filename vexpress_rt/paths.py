"""Paths that a caller names: files to read, and what is already there under them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from reprlib import repr as brief

from vexpress_rt.errors import ConfigError, InputError


def input_file(source: str | os.PathLike[str], what: str, expected: str, error: type[InputError]) -> Path:
    """The path of a regular file to be read. `what` ("the audio"), `expected` and `error` are for complaints.

    Raises `error` where there is none: a pipe or a device could be read for ever, and a name that the system cannot
    take is no name.
    """
    path = Path(source)
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError) as cause:  # ValueError: a NUL or half a surrogate pair in the name
        found = "does not exist" if isinstance(cause, FileNotFoundError) else f"cannot be reached ({cause})"
        raise error(f"{what} {path} {found}; expected {expected}: check the path") from cause
    if not stat.S_ISREG(kind):
        raise error(f"{what} {path} is a folder or a device; expected {expected}: check the path")
    return path


def folder_path(folder: object, name: str) -> Path:
    """The path of a folder, for the option `name`. Raises ConfigError for anything but a path in text."""
    try:
        text = os.fspath(folder)  # type: ignore[call-overload]
        if isinstance(text, str) and text and "\0" not in text:
            os.fsencode(text)  # half a surrogate pair is no name
            return Path(text)
    except Exception:  # whatever an object's __fspath__ raises
        pass
    raise ConfigError(f"{name} is {brief(folder)}; expected the path of a folder, as a str or a pathlib.Path")


def same_file(one: object, other: Path) -> bool:
    """Whether `one` is the path of the file `other`."""
    if not isinstance(one, (str, os.PathLike)):
        return False
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False
