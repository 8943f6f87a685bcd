"""TIFF photos whose parts overlap, repeat or hold too much are refused."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from tests.support.photo_bombs import square_tiff, tiff
from tests.support.photo_bytes import load_image
from vexpress_rt.errors import ImageError


def test_a_jpeg_in_a_tiff_is_held_to_the_scans_of_one_outside() -> None:
    stream = io.BytesIO()
    Image.new("L", (64, 64), 90).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    last = content.rindex(b"\xff\xda")
    strip = content[:last] + content[last:-2] * 400 + b"\xff\xd9"
    data = tiff(64, 64, bits=[8], photometric=1, rows=64, compression=7)
    at = data.rindex(b"\x11\x01\x04\0\x01\0\0\0")  # strip offsets; the byte counts are two entries on
    data = bytearray(data + strip)
    data[at + 8 : at + 12] = (len(data) - len(strip)).to_bytes(4, "little")
    with pytest.raises(ImageError, match=r"is a JPEG of 4\d\d scans; expected at most 100"):
        load_image(bytes(data))


def test_pages_that_follow_each_other_in_a_ring_are_refused() -> None:
    data = bytearray(square_tiff(0.0001, bits=[8], photometric=1))
    data[-4:] = data[4:8]
    with pytest.raises(ImageError, match="several frames or pages"):
        load_image(bytes(data))


def test_strips_that_lie_over_each_other_are_damage() -> None:
    data = tiff(64, 64, bits=[8], photometric=1, rows=63, compression=1)
    assert load_image(data).shape == (64, 64, 3)
    many = bytearray(tiff(64, 64 * 100, bits=[8], photometric=1, rows=63, compression=1))
    at = many.rindex(struct.pack("<HHI", 257, 4, 1)) + 8
    many[at : at + 4] = struct.pack("<I", 64)
    with pytest.raises(ImageError, match="it has 102 strips or tiles where its size needs 2"):
        load_image(bytes(many))
