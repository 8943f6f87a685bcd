"""Mutations of the fields of a protobuf message; the sizes of enclosing fields are corrected."""

from __future__ import annotations

import random
from dataclasses import dataclass

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NUMBERS = (0, 1, 2, 7, 127, 128, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_TEXTS = (
    b"",
    b"x",
    b"Loop",
    b"If",
    b"location",
    b"../../canary/secret.bin",
    b"\0",
    b"\xff",
    b"x" * 10000,
    b"com.microsoft",
    b"-1",
    b"1e999",
)
_LARGEST = 1 << 26  # bytes of a damaged message
_LARGE = 1 << 14  # bytes; larger fields are weights


@dataclass
class _Field:
    """A field.

    Attributes:
        number: Field number.
        kind: Wire type.
        value: A number, bytes, or the fields of a message.
    """

    number: int
    kind: int
    value: int | bytes | list[_Field]


def damage(chance: random.Random, message: bytes) -> bytes:
    """Return the message with one to six changes to fields at any depth."""
    fields = _parse(message, 0)
    if not fields:
        return message + chance.randbytes(8)
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        holder = _pick(chance, fields)
        _change(chance, holder, fields)
    return _write(fields) if _size(fields) <= _LARGEST else message


def _size(fields: list[_Field]) -> int:
    """Return about how many bytes fields take, counting only to _LARGEST: repeated copies can make them huge."""
    total = 0
    for field in fields:
        content = field.value
        total += 8 if isinstance(content, int) else len(content) if isinstance(content, bytes) else _size(content)
        if total > _LARGEST:
            break
    return total


def _pick(chance: random.Random, fields: list[_Field]) -> list[_Field]:
    """Return a random nested message; rare fields are as likely as frequent ones."""
    holder = fields
    while chance.random() < 0.8:
        inner = [field.value for field in holder if isinstance(field.value, list) and field.value]
        if not inner:
            break
        kinds = {field.number for field in holder if isinstance(field.value, list) and field.value}
        number = chance.choice(sorted(kinds))
        same = [
            field.value for field in holder if field.number == number and isinstance(field.value, list) and field.value
        ]
        holder = chance.choice(same)
    return holder


def _change(chance: random.Random, holder: list[_Field], top: list[_Field]) -> None:
    if not holder:
        holder.append(_Field(chance.randrange(1, 30), _VARINT, chance.choice(_NUMBERS)))
        return
    at = chance.randrange(len(holder))
    field = holder[at]
    kind = chance.randrange(8)
    if kind == 0:
        del holder[at]
    elif kind == 1:
        holder[at:at] = [_copy(field) for _ in range(chance.choice((1, 1, 3, 200)))]
    elif kind == 2:
        field.number = chance.choice((chance.randrange(1, 30), 0, 2**29 - 1))
    elif kind == 3:
        other = _pick(chance, top)
        holder.insert(at, _copy(chance.choice(other)))
    elif kind == 4:
        chance.shuffle(holder)
    elif isinstance(field.value, int):
        field.value = chance.choice(_NUMBERS) if chance.random() < 0.7 else field.value ^ 1 << chance.randrange(63)
        if field.kind != _VARINT:
            field.value %= 2 ** (64 if field.kind == _FIXED64 else 32)
    elif isinstance(field.value, bytes):
        field.value = chance.choice(_TEXTS) if chance.random() < 0.6 else _dented(chance, field.value)
    else:
        field.value = chance.choice(_TEXTS)


def _copy(field: _Field) -> _Field:
    value = [_copy(inner) for inner in field.value] if isinstance(field.value, list) else field.value
    return _Field(field.number, field.kind, value)


def _dented(chance: random.Random, data: bytes) -> bytes:
    if not data:
        return b"\0"
    copy, at = bytearray(data), chance.randrange(len(data))
    if chance.random() < 0.5:
        copy[at] ^= 1 << chance.randrange(8)
    else:
        del copy[at:]
    return bytes(copy)


def _parse(data: bytes, deep: int) -> list[_Field] | None:
    """Return the fields of a message; None for bytes that are not a message."""
    fields, at = [], 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        value: int | bytes | list[_Field]
        if at < 0 or not 1 <= number <= 100:
            return None
        if kind == _VARINT:
            value, at = _varint(data, at)
            if at < 0:
                return None
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            if at + size > len(data):
                return None
            value, at = int.from_bytes(data[at : at + size], "little"), at + size
        elif kind == _BYTES:
            size, at = _varint(data, at)
            if at < 0 or at + size > len(data):
                return None
            content, at = data[at : at + size], at + size
            inner = (
                _parse(content, deep + 1)
                if deep < 8 and size and not _is_text(content) and (size < _LARGE or deep < 1)
                else None
            )
            value = content if inner is None else inner
        else:
            return None
        fields.append(_Field(number, kind, value))
    return fields


def _is_text(content: bytes) -> bool:
    return all(32 <= byte < 127 for byte in content)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
        shift += 7
    return 0, -1


def _write(fields: list[_Field]) -> bytes:
    parts = []
    for field in fields:
        parts.append(_number(field.number << 3 | field.kind))
        if isinstance(field.value, int):
            size = {_FIXED64: 8, _FIXED32: 4}.get(field.kind, 0)
            parts.append(field.value.to_bytes(size, "little") if size else _number(field.value))
        else:
            content = field.value if isinstance(field.value, bytes) else _write(field.value)
            if field.kind == _BYTES:
                parts.append(_number(len(content)))
            parts.append(content)
    return b"".join(parts)


def _number(value: int) -> bytes:
    value %= 2**64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
