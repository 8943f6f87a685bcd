"""Photos without their last bytes are decoded as far as possible, also in formats whose decoders need all bytes."""

from __future__ import annotations

import io
import re
import struct

import numpy as np
import pytest
from PIL import Image

from tests.support.photo_bytes import encoded, picture
from vexpress_rt.errors import ImageError
from vexpress_rt.media.image import load_photo
from vexpress_rt.media.photos import gif

ALL_ROWS = "photo: its last bytes are missing; all of its rows can be decoded"


def noise() -> Image.Image:
    """256 rows of which none can be told from its neighbours."""
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (256, 200, 3), dtype=np.uint8))


def heif(image: Image.Image) -> bytes:
    library = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    library.from_pillow(image).save(stream, quality=80)
    return stream.getvalue()


@pytest.mark.parametrize("missing", [10, 50, 2000])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("WEBP", {"quality": 80}),
        ("WEBP", {"lossless": True}),
        ("HEIF", {}),
        ("JPEG2000", {"tile_size": (200, 64)}),
        ("JPEG2000", {"tile_size": (200, 64), "no_jp2": True}),
    ],
)
def test_rows_above_the_missing_end_are_those_of_the_whole_photo(
    kind: str, options: dict[str, object], missing: int
) -> None:
    data = heif(noise()) if kind == "HEIF" else encoded(kind, noise(), **options)
    whole, photo = load_photo(data), load_photo(data[:-missing])
    wrong = np.flatnonzero((photo.pixels != whole.pixels).any(axis=(1, 2)))
    assert wrong.min() >= 256 - 100
    noted = re.fullmatch(r"photo: its last bytes are missing; about (\d+) of its 256 rows may be wrong", photo.notes[0])
    assert noted
    assert abs(int(noted[1]) - len(wrong)) <= 8
    assert len(photo.notes) == 1


def test_the_upper_rows_of_an_avif_without_its_last_bytes_are_right() -> None:
    data = encoded("AVIF", noise())
    whole, photo = load_photo(data), load_photo(data[:-5])
    assert (photo.pixels == whole.pixels)[:180].all()
    assert re.fullmatch(r"photo: its last bytes are missing; about \d+ of its 256 rows may be wrong", *photo.notes)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "HEIF", "JPEG2000", "GIF"])
def test_a_photo_without_half_of_its_bytes_is_damaged(kind: str) -> None:
    data = heif(noise()) if kind == "HEIF" else encoded(kind, noise())
    with pytest.raises(ImageError, match="is damaged, truncated"):
        load_photo(data[: len(data) * 4 // 10])


def test_an_orientation_is_applied_to_a_webp_without_its_last_bytes() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded("WEBP", noise(), lossless=True)
    size = struct.pack("<I", 8) + (199).to_bytes(3, "little") + (255).to_bytes(3, "little")
    exif_chunk = exif.tobytes() + bytes(len(exif.tobytes()) % 2)
    head = b"VP8X" + struct.pack("<I", 10) + size + b"EXIF" + struct.pack("<I", len(exif_chunk)) + exif_chunk
    content = head + data[12:]
    turned = b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content
    photo = load_photo(turned[:-1000])
    assert photo.pixels.shape == (200, 256, 3)
    np.testing.assert_array_equal(photo.pixels[:, 100:], np.rot90(np.asarray(noise()), -1)[:, 100:])
    assert len(photo.notes) == 1


def test_metadata_cut_off_after_the_pixels_of_a_webp_change_none() -> None:
    data = encoded("WEBP", exif=bytes(100))
    photo = load_photo(data[:-50])
    np.testing.assert_array_equal(photo.pixels, load_photo(data).pixels)
    assert photo.notes == (ALL_ROWS,)


@pytest.mark.parametrize("more", [-2, 1, 7])
def test_a_webp_whose_size_is_a_little_wrong_is_the_whole_picture(more: int) -> None:
    data = encoded("WEBP")
    other = data[:4] + struct.pack("<I", int.from_bytes(data[4:8], "little") + more) + data[8:]
    np.testing.assert_array_equal(load_photo(other).pixels, load_photo(data).pixels)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_2000_without_its_end_marker_is_the_same_picture(missing: int) -> None:
    data = encoded("JPEG2000")
    photo = load_photo(data[:-missing])
    np.testing.assert_array_equal(photo.pixels, picture())
    assert photo.notes == (ALL_ROWS,)


def test_a_jpeg_2000_without_some_of_its_tiles_is_damaged() -> None:
    data = encoded("JPEG2000", noise(), tile_size=(128, 128))
    with pytest.raises(ImageError, match="only 3 of its 4 tiles are there"):
        load_photo(data[: data.rindex(b"\xff\x90\0\x0a")])


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("mode", ["P", "L", "1"])
def test_a_gif_without_its_trailer_is_the_same_picture(missing: int, mode: str) -> None:
    data = encoded("GIF", Image.fromarray(picture()).convert(mode))
    photo = load_photo(data[:-missing])
    np.testing.assert_array_equal(photo.pixels, load_photo(data).pixels)
    assert photo.notes == (ALL_ROWS,)


@pytest.mark.parametrize("missing", [5, 50, 1000])
@pytest.mark.parametrize("options", [{"interlace": 0}, {"interlace": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_the_missing_rows_of_a_truncated_gif_stay_blank(mode: str, options: dict[str, object], missing: int) -> None:
    data = encoded("GIF", noise().convert(mode), **options)
    whole, photo = load_photo(data), load_photo(data[:-missing])
    wrong = (photo.pixels != whole.pixels).any(axis=(1, 2)).sum()
    assert 1 <= wrong < 64
    assert photo.notes == (f"photo: its last bytes are missing; {wrong} of its 256 rows are blank",)


def test_a_gif_whose_codes_are_damaged_before_its_missing_end_is_refused() -> None:
    data = bytearray(encoded("GIF", noise().convert("L")))
    start = data.index(b"\x08\xff", 13 + 768) + 2  # the first data block
    data[start : start + 4] = b"\xff" * 4
    with pytest.raises(ImageError, match="its pixels are damaged"):
        load_photo(bytes(data[:-50]))


def test_a_gif_that_takes_long_to_follow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gif, "_MAX_CUT", 1000)
    data = encoded("GIF", noise())
    assert load_photo(data).notes == ()
    with pytest.raises(ImageError, match=r"is a GIF whose end is missing after \d+ bytes; expected at most 1000"):
        load_photo(data[:-50])
