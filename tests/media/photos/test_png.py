"""PNG photos with wrong checksums, damaged pixels or large texts are decoded as viewers do, with a note."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.support.photo_bombs import png_chunk
from tests.support.photo_bytes import ALL_ROWS, encoded, picture
from vexpress_rt.errors import ImageError
from vexpress_rt.media.image import load_photo


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(name, body) of a PNG's chunks."""
    found, at = [], 8
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        found.append((name, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of(parts: list[bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_wrong_checksum(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


def test_a_png_without_its_end_chunk_is_the_whole_picture() -> None:
    photo = load_photo(encoded("PNG")[:-12])
    np.testing.assert_array_equal(photo.pixels, picture())
    assert photo.notes == (ALL_ROWS,)


def test_large_texts_of_a_png_are_left_out_without_a_note() -> None:
    info = PngInfo()
    info.add_text("workflow", "node " * 500_000, zip=True)
    info.add_itxt("prompt", "word " * 500_000, zip=True)
    info.add_text("parameters", "step " * 500_000)
    photo = load_photo(encoded("PNG", pnginfo=info))
    np.testing.assert_array_equal(photo.pixels, picture())
    assert photo.notes == ()


@pytest.mark.parametrize("name", ["tEXt", "zTXt", "iTXt", "iCCP", "gAMA", "eXIf", "tIME", "abCd"])
@pytest.mark.parametrize("last", [False, True])
def test_a_wrong_checksum_beside_the_pixels_is_noted(name: str, last: bool) -> None:
    wrong = with_wrong_checksum(png_chunk(name.encode(), b"key\0\0value"))
    parts = [png_chunk(*part) for part in chunks(encoded("PNG"))]
    parts.insert(-1 if last else 1, wrong)
    photo = load_photo(png_of(parts))
    np.testing.assert_array_equal(photo.pixels, picture())
    assert photo.notes == (f"photo: the checksum of its {name} chunk is wrong; the chunk is skipped",)


@pytest.mark.parametrize("name", ["IHDR", "PLTE"])
def test_a_wrong_checksum_of_a_chunk_that_pixels_need_is_damage(name: str) -> None:
    parts = chunks(encoded("PNG", Image.fromarray(picture()).quantize(8)))
    data = png_of([
        with_wrong_checksum(png_chunk(*part)) if part[0] == name.encode() else png_chunk(*part) for part in parts
    ])  # fmt: skip
    with pytest.raises(ImageError, match="checksum is wrong"):
        load_photo(data)


def test_a_png_whose_pixels_are_damaged_keeps_the_rows_before() -> None:
    body = bytearray(zlib.compress(b"".join(b"\0" + bytes(row) for row in picture().reshape(160, -1).tolist()), 0))
    body[len(body) * 8 // 10] ^= 255  # in the stored bytes: only the checksum at the end tells
    header = png_chunk(*chunks(encoded("PNG"))[0])
    photo = load_photo(png_of([header, png_chunk(b"IDAT", bytes(body)), png_chunk(b"IEND", b"")]))
    assert ((photo.pixels == picture()).all(axis=(1, 2))).sum() == 159
    assert photo.notes == ("photo: its pixels are damaged; all of its rows can be decoded",)


def cut_into(pixels: bytes, size: int, spoilt: int) -> bytes:
    """A PNG with its pixels in pieces of `size` bytes, of which number `spoilt` has other bytes than its checksum."""
    pieces = [png_chunk(b"IDAT", pixels[at : at + size]) for at in range(0, len(pixels), size)]
    spoilt_piece = bytearray(pieces[spoilt])
    spoilt_piece[8:-4] = bytes(255 - each for each in spoilt_piece[8:-4])
    pieces[spoilt] = bytes(spoilt_piece)
    return png_of([png_chunk(*chunks(encoded("PNG"))[0]), *pieces, png_chunk(b"IEND", b"")])


def test_the_rows_before_a_damaged_piece_of_a_png_are_used() -> None:
    pixels = b"".join(body for name, body in chunks(encoded("PNG")) if name == b"IDAT")
    size = len(pixels) // 10
    photo = load_photo(cut_into(pixels, size, 7))
    there = (photo.pixels == picture()).all(axis=(1, 2))
    black = (photo.pixels == 0).all(axis=(1, 2))
    assert (there ^ black).all()
    assert 100 < there.sum() < 115
    assert photo.notes == (f"photo: its pixels are damaged; {black.sum()} of its 160 rows are black",)
    with pytest.raises(ImageError, match=r"only \d+ of its 160 rows"):
        load_photo(cut_into(pixels, size, 2))


def test_pixels_whose_checksum_alone_is_wrong_are_taken_with_a_note() -> None:
    parts = [png_chunk(*part) for part in chunks(encoded("PNG"))]
    photo = load_photo(png_of([with_wrong_checksum(part) if part[4:8] == b"IDAT" else part for part in parts]))
    np.testing.assert_array_equal(photo.pixels, picture())
    assert photo.notes == ("photo: the checksum of its pixels is wrong; they are used as they are",)


def test_many_small_pieces_of_pixels_are_one_picture() -> None:
    parts = chunks(encoded("PNG"))
    pixels = b"".join(body for name, body in parts if name == b"IDAT")
    pieces = [png_chunk(b"IDAT", pixels[at : at + 5]) for at in range(0, len(pixels), 5)]
    photo = load_photo(png_of([png_chunk(*parts[0]), *pieces, png_chunk(b"IDAT", b""), png_chunk(b"IEND", b"")]))
    np.testing.assert_array_equal(photo.pixels, picture())
