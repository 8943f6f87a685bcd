"""Only the orientation is read from EXIF, and it is applied as in Pillow."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from tests.support.photo_bytes import gradient, load_image
from vexpress_rt.media.photos.orientation import find_orientation


def exif_of(entries: list[bytes], order: str = "<") -> bytes:
    """EXIF with the 12-byte `entries` in its first directory."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)


def entry(tag: int, kind: int, count: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")


def orientation(value: int, order: str = "<") -> bytes:
    return entry(0x0112, 3, 1, struct.pack(f"{order}H", value), order)


def with_exif(kind: str, exif: bytes) -> bytes:
    stream = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(gradient()).save(stream, kind, exif=b"Exif\0\0" + exif, **options)
    return stream.getvalue()


ODD = {
    "a resolution unit of bytes": entry(0x0128, 1, 1, b"\2"),
    "an unknown type": entry(0x010F, 99, 1, b"abcd"),
    "type 0": entry(0x010F, 0, 1, b"abcd"),
    "a text beyond the end": entry(0x010F, 2, 2**31, struct.pack("<I", 2**31)),
    "a rational beyond the end": entry(0x011A, 5, 1, struct.pack("<I", 60_000)),
    "a rational of nothing": entry(0x011A, 5, 0, b""),
    "an EXIF directory that is text": entry(0x8769, 2, 4, b"abc"),
    "an EXIF directory beyond the end": entry(0x8769, 4, 1, struct.pack("<I", 2**31)),
    "an EXIF directory that is this one": entry(0x8769, 4, 1, struct.pack("<I", 8)),
    "a GPS directory within the entries": entry(0x8825, 4, 1, struct.pack("<I", 11)),
    "a maker note of 4 GB": entry(0x927C, 7, 2**32 - 1, struct.pack("<I", 8)),
    "a double in four bytes": entry(0x9204, 12, 1, struct.pack("<I", 8)),
    "an image that is one's own": entry(0x014A, 4, 1, struct.pack("<I", 8)),
    "a text that is no text": entry(0x010E, 2, 4, b"\xff\xfe\xfd\xfc"),
    "no date": entry(0x0132, 3, 20, struct.pack("<I", 8)),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("first", [True, False])
def test_an_odd_entry_does_not_stop_the_rotation(kind: str, odd: str, first: bool) -> None:
    entries = [ODD[odd], orientation(6)] if first else [orientation(6), ODD[odd]]
    plain = load_image(with_exif(kind, exif_of([])))
    np.testing.assert_array_equal(load_image(with_exif(kind, exif_of(entries))), np.rot90(plain, -1))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(12))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_orientation_is_as_pillow_applies_it(kind: str, value: int, order: str) -> None:
    data = with_exif(kind, exif_of([orientation(value, order)], order))
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(load_image(data), expected)


@pytest.mark.parametrize(("kind", "value"), [(1, b"\x06"), (3, b"\x06\0"), (4, b"\x06\0\0\0")])
def test_the_value_may_be_a_byte_a_short_or_a_long(kind: int, value: bytes) -> None:
    assert find_orientation(exif_of([entry(0x0112, kind, 1, value)])) == 6


@pytest.mark.parametrize(
    "exif",
    [
        b"", b"II", b"Exif\0\0", b"XX*\0\x08\0\0\0", exif_of([]), exif_of([orientation(0)]), exif_of([orientation(9)]),
        exif_of([entry(0x0112, 2, 1, b"6")]), exif_of([entry(0x0112, 3, 2, b"\6\0\6\0")]),
        exif_of([orientation(6)])[:18], b"II*\0\xff\xff\xff\xff" + bytes(20), b"II*\0\x08\0\0\0\xff\xff",
    ],
)  # fmt: skip
def test_a_malformed_orientation_is_as_stored(exif: bytes) -> None:
    assert find_orientation(exif) == 1


def test_exif_comes_before_xmp_and_xmp_is_enough() -> None:
    xmp = b'<rdf:Description tiff:Orientation="8"/>'
    assert find_orientation(exif_of([orientation(6)]), xmp) == 6
    assert find_orientation(exif_of([]), xmp) == 8
    assert find_orientation(b"", b"<tiff:Orientation>3</tiff:Orientation>") == 3


@pytest.mark.parametrize("packed", [False, True])
def test_a_png_may_have_its_orientation_in_texts(packed: bool) -> None:
    exif = (b"Exif\0\0" + exif_of([orientation(6)])).hex()
    for key, text in (
        ("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>'),
        ("Raw profile type exif", f"\nexif\n{len(exif) // 2:8}\n{exif}\n"),
    ):
        info = PngInfo()
        info.add_itxt(key, text, zip=packed)
        stream = io.BytesIO()
        Image.fromarray(gradient()).save(stream, "PNG", pnginfo=info)
        np.testing.assert_array_equal(load_image(stream.getvalue()), np.rot90(gradient(), -1))


def test_a_tiff_with_odd_entries_is_rotated() -> None:
    stream = io.BytesIO()
    tags = {0x0112: 6, 0x010E: "a text", 0x8769: 2**31}
    Image.fromarray(gradient()).save(stream, "TIFF", tiffinfo=tags)
    np.testing.assert_array_equal(load_image(stream.getvalue()), np.rot90(gradient(), -1))


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_avif_is_rotated_once_and_odd_exif_in_it_is_skipped(order: str) -> None:
    plain = load_image(with_exif("AVIF", exif_of([])))
    unit = entry(0x0128, 3, 1, struct.pack(f"{order}H", 2), order)
    data = with_exif("AVIF", exif_of([orientation(6, order), unit], order))
    np.testing.assert_array_equal(load_image(data), np.rot90(plain, -1))
    odd = data.replace(unit[:8], entry(0x0128, 1, 1, b"", order)[:8])
    assert odd != data
    np.testing.assert_array_equal(load_image(odd), np.rot90(plain, -1))
