"""Strict reading of untrusted JSON, a bundle's manifest: bounded, and checked before it is used.

Faults raise BundleDamagedError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from reprlib import repr as brief
from typing import Any, NoReturn

from vexpress_rt.errors import BundleDamagedError

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")  # no separators, drives, ".." or hidden files
_SHA256 = re.compile(r"[0-9a-f]{64}")


def malformed(what: str) -> NoReturn:
    """Raise BundleDamagedError with a fault of the manifest as its message."""
    raise BundleDamagedError(f"the manifest is malformed: {what}")


def parse(content: bytes, limit: int) -> object:
    """Parse JSON in UTF-8.

    Args:
        content: The bytes.
        limit: The largest number of bytes.

    Raises:
        BundleDamagedError: The content is too large or malformed, or has a key twice, NaN, infinity, or an integer of
            more than 19 digits.
    """
    if len(content) > limit:
        malformed(f"it is larger than {limit} bytes")
    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_short_integer,
        )
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
        if isinstance(error, BundleDamagedError):
            raise
        raise BundleDamagedError(f"the manifest is malformed: {brief(str(error))}") from error


def record(data: object, where: str, kinds: Mapping[str, type], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a copy of a JSON object after checking its keys and the types of its values.

    Args:
        data: The parsed value.
        where: Its place in the manifest, for messages.
        kinds: The type of each key; no other keys may exist.
        optional: Keys that can be missing.

    Raises:
        BundleDamagedError: `data` is no object, or a key or type is wrong.
    """
    if type(data) is not dict:
        malformed(f"{where} is {brief(data)}; expected an object")
    if wrong := sorted((kinds.keys() ^ data.keys()) - (set(optional) - data.keys())):
        malformed(f"{where} lacks or does not know {brief(wrong)}")
    for name, value in data.items():
        if type(value) is not kinds[name]:
            malformed(f"{where} has {name} = {brief(value)}; expected {kinds[name].__name__}")
    return dict(data)


def distinct(names: list[Any], what: str) -> None:
    """Check that all names are strings and differ from each other.

    Args:
        names: The names.
        what: The names' owner for messages, as the subject of "are not distinct texts".

    Raises:
        BundleDamagedError: They are not strings, or not distinct.
    """
    if not all(type(name) is str for name in names) or len(set(names)) != len(names):
        malformed(f"{what} are not distinct texts: {brief(names)}")


def plain_name(name: str, where: str) -> str:
    """Check that a name is a plain file name, which cannot lead out of a folder, and return it.

    Args:
        name: The name.
        where: Its place in the manifest, for messages.

    Raises:
        BundleDamagedError: It is not a plain name.
    """
    if not _PLAIN_NAME.fullmatch(name):
        malformed(f"{where} names {brief(name)}; expected a plain name: letters, digits, '.', '_' and '-'")
    return name


def sha256(text: str, where: str) -> str:
    """Check that a text has the form of a sha256, 64 lower-case hexadecimal digits, and return it.

    Args:
        text: The text.
        where: Its place in the manifest, for messages.

    Raises:
        BundleDamagedError: It has another form.
    """
    if not _SHA256.fullmatch(text):
        malformed(f"{where} is {brief(text)}; expected 64 hexadecimal digits")
    return text


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    distinct([key for key, _ in pairs], "an object has keys that")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    malformed(f"it holds {name}; expected finite numbers")


def _short_integer(digits: str) -> int:
    if len(digits) > 19:  # no size is larger, and much larger integers cannot be compared with floats
        malformed(f"it holds the number {brief(digits)}; expected at most 19 digits")
    return int(digits)
