"""Text on standard streams: escaped, never harmful, never in the way."""

from __future__ import annotations

import io

import pytest

from vexpress_rt.cli.terminal import duration, say


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_duration_reads_as_on_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_control_characters_are_escaped() -> None:
    stream = io.StringIO()
    say("a\x1b[2J\x07\r\u202eb\nc é", stream)
    assert stream.getvalue() == "a\\x1b[2J\\x07\\r\\u202eb\nc é\n"


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", b"\\xe9 \\udcff\n"), ("utf-8", b"\xc3\xa9 \\udcff\n")])
def test_what_a_stream_cannot_encode_is_escaped(encoding: str, expected: bytes) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    say("é \udcff", stream)
    assert stream.buffer.getvalue() == expected  # type: ignore[attr-defined]
