"""A reader of protobuf's wire format for untrusted files: it refuses encodings that no writer of ONNX files produces.

A table lists the fields that a message may have. Only names and small numbers are copied, so that a mapped file may
hold gigabytes of weights. Nothing recurses: a nested message is returned as its span.

Source: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any, Literal, NoReturn

from vexpress_rt.errors import BundleDamagedError

Data = bytes | mmap.mmap
Span = tuple[int, int]  # offset of the first byte, and of the one after the last
Kind = Literal["int", "ints", "float", "floats", "text", "span", "varints", "fixed32", "fixed64", "refused"]

_VARINT, _FIXED64, _SPAN, _FIXED32 = 0, 1, 2, 5
_WIRE: dict[Kind, tuple[int, ...]] = {
    "int": (_VARINT,), "ints": (_VARINT, _SPAN), "varints": (_VARINT, _SPAN),
    "float": (_FIXED32,), "floats": (_FIXED32, _SPAN), "fixed32": (_FIXED32, _SPAN), "fixed64": (_FIXED64, _SPAN),
    "text": (_SPAN,), "span": (_SPAN,), "refused": (),
}  # fmt: skip
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_NAMES = {_VARINT: "a varint", _FIXED64: "8 bytes", _SPAN: "a length and as many bytes", _FIXED32: "4 bytes"}


@dataclass(frozen=True)
class Field:
    """A field that a message may have.

    Attributes:
        name: Its name, in the result and in messages.
        kind: Its value in the result: `int` is a signed 64-bit integer, `ints` a list of them, `text` printable UTF-8
            as str, `span` the span of its bytes. `float`, `floats`, `varints`, `fixed32` and `fixed64` are spans of
            numbers, whose type the caller knows. A field of kind `refused` raises an error.
        limit: The largest number of bytes for `text`, of entries for lists and repeated fields.
        repeated: Whether the field may occur more than once. Lists of numbers always may.
    """

    name: str
    kind: Kind
    limit: int = 1 << 62
    repeated: bool = False


Schema = Mapping[int, Field]


def refuse(what: str) -> NoReturn:
    """Raise BundleDamagedError with the fault of a file as its message."""
    raise BundleDamagedError(what)


class Reader:
    """A reader of the messages in one file.

    Args:
        budget: The largest number of fields in all messages together.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._left = budget

    def message(self, data: Data, span: Span, schema: Schema, where: str) -> dict[str, Any]:
        """Read one message.

        Args:
            data: The content of the file.
            span: The span of the message.
            schema: The fields that it may have, by number.
            where: The name of the message for errors, such as "a node".

        Returns:
            The fields by name, repeated ones as lists; absent ones are left out.

        Raises:
            BundleDamagedError: A field is not in `schema`, has another wire type, occurs twice without being repeated,
                or ends beyond the message; or a number is not in its shortest form.
        """
        found: dict[str, Any] = {}
        for number, wire, value in self._fields(data, span, where):
            field = schema.get(number)
            if field is None or field.kind == "refused":
                name = f"the field {number}" if field is None else field.name
                refuse(f"{where} has {name}, which no engine of this package has")
            if wire not in _WIRE[field.kind]:
                refuse(f"{where} has {field.name} as {_NAMES[wire]}; expected {_NAMES[_WIRE[field.kind][-1]]}")
            content = self._content(data, field, wire, value, where)
            if field.kind in ("ints", "floats", "varints", "fixed32", "fixed64"):
                entries = found.setdefault(field.name, [])
                entries.extend(content)
            elif field.repeated:
                entries = found.setdefault(field.name, [])
                entries.append(content)
            elif field.name in found:
                refuse(f"{where} has {field.name} twice")
            else:
                found[field.name] = content
                continue
            if len(entries) > field.limit:
                refuse(f"{where} has more than {field.limit} of {field.name}")
        return found

    def varints(self, data: Data, span: Span, where: str) -> Iterator[int]:
        """Yield the signed 64-bit integers of a packed list.

        Args:
            data: The content of the file.
            span: The span of the list.
            where: The name of the message for errors.

        Raises:
            BundleDamagedError: A number is malformed.
        """
        at, stop = span
        while at < stop:
            value, at = _varint(data, at, stop, where)
            yield _signed(value)

    def _content(self, data: Data, field: Field, wire: int, value: Any, where: str) -> Any:
        if field.kind == "int":
            return _signed(value)
        if field.kind == "text":
            return _text(data, value, field, where)
        if field.kind == "span":
            return value
        if field.kind == "ints":
            if wire == _VARINT:
                return [_signed(value)]
            if value[1] - value[0] > 10 * field.limit:
                refuse(f"{where} has more than {field.limit} of {field.name}")
            return list(self.varints(data, value, where))
        if wire == _VARINT:
            return [value]
        return [value] if field.kind != "float" else value

    def _fields(self, data: Data, span: Span, where: str) -> Iterator[tuple[int, int, Any]]:
        """Yield (number, wire type, varint or span) of each field."""
        at, stop = span
        while at < stop:
            self._left -= 1
            if self._left < 0:
                refuse(f"it has more than {self._budget} fields")
            key, at = _varint(data, at, stop, where)
            number, wire = key >> 3, key & 7
            if wire == _VARINT:
                value, at = _varint(data, at, stop, where)
                yield number, wire, value
                continue
            if wire == _SPAN:
                length, at = _varint(data, at, stop, where)
            elif wire in _SIZES:
                length = _SIZES[wire]
            else:
                refuse(f"{where} has a field of wire type {wire}; expected 0, 1, 2 or 5")
            if length > stop - at:
                refuse(f"{where} ends in the middle of the field {number}: {length} bytes of {stop - at}")
            yield number, wire, (at, at + length)
            at += length


def _varint(data: Data, at: int, stop: int, where: str) -> tuple[int, int]:
    """Read an unsigned 64-bit integer; return it and the offset after it."""
    if at < stop and (byte := data[at]) < 0x80:  # the common case
        return byte, at + 1
    value = shift = 0
    while at < stop and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 or value >= 1 << 64:
                refuse(f"{where} has a number that is not in its shortest form, or of more than 64 bits")
            return value, at
        shift += 7
    refuse(f"{where} ends in the middle of a number" if at >= stop else f"{where} has a number of more than 64 bits")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(data: Data, span: Span, field: Field, where: str) -> str:
    start, stop = span
    if stop - start > field.limit:
        refuse(f"{where} has {field.name} of {stop - start} bytes; expected at most {field.limit}")
    content = data[start:stop]
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        refuse(f"{where} has {field.name} = {brief(content)}, which is not UTF-8")
    if not text.isprintable():
        refuse(f"{where} has {field.name} = {brief(text)}; expected printable characters")
    return text
