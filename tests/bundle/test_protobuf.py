"""Protobuf's wire format: the encodings of writers are read, others are refused."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto

from vexpress_rt.bundle.protobuf import Field, Reader, Schema
from vexpress_rt.errors import BundleDamagedError

SCHEMA: Schema = {
    1: Field("number", "int"),
    2: Field("numbers", "ints", 100),
    3: Field("name", "text", 5),
    4: Field("inner", "span"),
    5: Field("names", "text", 5, repeated=True),
    6: Field("real", "float"),
}


def read(data: bytes, budget: int = 1000) -> dict[str, object]:
    return Reader(budget).message(data, (0, len(data)), SCHEMA, "the message")


def test_fields_are_read_by_name_and_spans_stay_where_they_are() -> None:
    assert read(b"\x08\x96\x01\x1a\x02hi\x22\x03abc") == {"number": 150, "name": "hi", "inner": (9, 12)}


def test_an_empty_message_has_no_fields() -> None:
    assert read(b"") == {}


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_integers_are_those_that_protobuf_itself_writes(numbers: list[int]) -> None:
    schema: Schema = {1: Field("dims", "ints", 20), 8: Field("ints", "ints", 20)}
    unpacked = TensorProto(dims=numbers).SerializeToString()
    assert Reader(99).message(unpacked, (0, len(unpacked)), schema, "it").get("dims", []) == numbers
    ints = AttributeProto(ints=numbers).SerializeToString()
    assert Reader(99).message(ints, (0, len(ints)), schema, "it").get("ints", []) == numbers


def test_a_list_may_be_packed_or_not_and_in_pieces() -> None:
    assert read(b"\x10\x01\x12\x02\x02\x03\x10\x04")["numbers"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x38\x01", "has the field 7, which no engine"),
        (b"\x00\x01", "has the field 0, which no engine"),
        (b"\x0a\x01a", "has number as a length and as many bytes; expected a varint"),
        (b"\x0b\x0c", "has a field of wire type 3; expected 0, 1, 2 or 5"),
        (b"\x0f", "has a field of wire type 7"),
        (b"\x08\x01\x08\x01", "has number twice"),
        (b"\x1a\x01a\x1a\x01a", "has name twice"),
        (b"\x08", "ends in the middle of a number"),
        (b"\x08\xff", "ends in the middle of a number"),
        (b"\x1a\x05abc", "ends in the middle of the field 3: 5 bytes of 3"),
        (b"\x35\x00\x00", "ends in the middle of the field 6"),
        (b"\x22" + b"\xff" * 9 + b"\x01", "ends in the middle of the field 4: 18446744073709551615 bytes of 0"),
        (b"\x08\x80\x00", "a number that is not in its shortest form"),
        (b"\x88\x00\x01", "a number that is not in its shortest form"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "or of more than 64 bits"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "a number of more than 64 bits"),
        (b"\x1a\x06abcdef", "has name of 6 bytes; expected at most 5"),
        (b"\x1a\x02\xff\xfe", "which is not UTF-8"),
        (b"\x1a\x03a\nb", "expected printable characters"),
        (b"\x10\x01" * 101, "has more than 100 of numbers"),
        (b"\x12\x7f" + b"\x01" * 127, "has more than 100 of numbers"),
    ],
)
def test_encodings_that_no_writer_produces_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(BundleDamagedError, match=f"the message.*{re.escape(why)}"):
        read(data)


def test_no_more_fields_are_read_than_allowed() -> None:
    many: Schema = {5: Field("names", "text", repeated=True)}
    data = b"\x2a\x00" * 1001
    assert len(Reader(1001).message(data, (0, len(data)), many, "it")["names"]) == 1001
    with pytest.raises(BundleDamagedError, match="more than 1000 fields"):
        Reader(1000).message(data, (0, len(data)), many, "it")


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(BundleDamagedError):
        assert set(read(data)) <= {field.name for field in SCHEMA.values()}
