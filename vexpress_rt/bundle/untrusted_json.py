"""JSON that anybody may have written, read without trust: bounded, strict, and not used before it was checked.

What is wrong raises BundleDamagedError, for such JSON is a bundle's manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from reprlib import repr as brief
from typing import Any, NoReturn

from vexpress_rt.errors import BundleDamagedError

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")  # no separators, no drive, no "..", no hidden files
_SHA256 = re.compile(r"[0-9a-f]{64}")


def malformed(what: str) -> NoReturn:
    """Raise the error that says what is wrong."""
    raise BundleDamagedError(f"the manifest is malformed: {what}")


def parse(content: bytes, limit: int) -> object:
    """The value in at most `limit` bytes of UTF-8: no key twice, no NaN or infinity, no integer of over 19 digits."""
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
    """A copy of the object `data` if it has exactly the keys of `kinds`, each with a value of exactly that type."""
    if type(data) is not dict:
        malformed(f"{where} is {brief(data)}; expected an object")
    if wrong := sorted((kinds.keys() ^ data.keys()) - (set(optional) - data.keys())):
        malformed(f"{where} lacks or does not know {brief(wrong)}")
    for name, value in data.items():
        if type(value) is not kinds[name]:
            malformed(f"{where} has {name} = {brief(value)}; expected {kinds[name].__name__}")
    return dict(data)


def distinct(names: list[Any], what: str) -> None:
    """Refuse what is no text, and a text that is there twice."""
    if not all(type(name) is str for name in names) or len(set(names)) != len(names):
        malformed(f"{what} are not distinct texts: {brief(names)}")


def plain_name(name: str, where: str) -> str:
    """`name` if it can be that of a file in a folder, and of nothing elsewhere."""
    if not _PLAIN_NAME.fullmatch(name):
        malformed(f"{where} names {brief(name)}; expected a plain name: letters, digits, '.', '_' and '-'")
    return name


def sha256(text: str, where: str) -> str:
    """`text` if it can be a sha256: 64 lower-case hexadecimal digits."""
    if not _SHA256.fullmatch(text):
        malformed(f"{where} is {brief(text)}; expected 64 hexadecimal digits")
    return text


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    distinct([key for key, _ in pairs], "an object has keys that")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    malformed(f"it holds {name}; expected finite numbers")


def _short_integer(digits: str) -> int:
    if len(digits) > 19:  # no size needs as many, and larger ones cannot even be compared with floats
        malformed(f"it holds the number {brief(digits)}; expected at most 19 digits")
    return int(digits)
