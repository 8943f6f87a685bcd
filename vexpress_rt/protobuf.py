"""Protobuf's wire format, read without trust: what no writer of ONNX files produces is refused.

A message is read by a table of the fields that it may have. Nothing is copied but names and small numbers, so that a
file that is mapped may hold gigabytes of weights. Nothing recurses: messages in a message are given as spans.

Source: the encoding as protobuf's documentation has it; https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any, Literal, NoReturn

from vexpress_rt.errors import BundleDamagedError

Data = bytes | mmap.mmap
Span = tuple[int, int]  # first byte, and the one after the last
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

    kind: `int` a signed integer of 64 bits; `ints` a list of them; `text` printable UTF-8; `span` where its bytes lie;
        `float`, `floats`, `varints`, `fixed32`, `fixed64` where its numbers lie, of which the caller knows the type;
        `refused` has a name for the message that says so.
    limit: for `text` bytes, for lists and what repeats entries.  repeated: the field may come more than once; lists of
        numbers always may.
    """

    name: str
    kind: Kind
    limit: int = 1 << 62
    repeated: bool = False


Schema = Mapping[int, Field]


def refuse(what: str) -> NoReturn:
    """Raise the error that says what is wrong with a file."""
    raise BundleDamagedError(what)


class Reader:
    """Reads messages of one file.  budget: how many fields all of them together may have."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._left = budget

    def message(self, data: Data, span: Span, schema: Schema, where: str) -> dict[str, Any]:
        """The fields of the message in `span` of `data` by name; those that repeat as lists, absent ones left out.

        Raises BundleDamagedError naming `where` for a field that `schema` lacks, for one of another wire type, for one
        that comes twice and may not, for one that ends beyond the message, and for a number that is not in its
        shortest form.
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
        """The numbers that lie in `span` one after the other, signed, of 64 bits."""
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
        """(number, wire type, varint or span) of each field."""
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
                refuse(f"{where} has a field of wire type {wire}; expected no groups and none that is unknown")
            if length > stop - at:
                refuse(f"{where} ends in the middle of the field {number}: {length} bytes of {stop - at}")
            yield number, wire, (at, at + length)
            at += length


def _varint(data: Data, at: int, stop: int, where: str) -> tuple[int, int]:
    """An unsigned number of 64 bits, and where the next field begins."""
    if at < stop and (byte := data[at]) < 0x80:  # nearly all of them
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
        refuse(f"{where} has {field.name} = {brief(content)}, which is no UTF-8")
    if not text.isprintable():
        refuse(f"{where} has {field.name} = {brief(text)}; expected printable characters")
    return text
