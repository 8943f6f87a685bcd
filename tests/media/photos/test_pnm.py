"""PNM of every kind has the values of Pillow's decoder, which is slower."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.support.photo_bytes import load_image
from vexpress_rt.errors import ImageError
from vexpress_rt.media.image import load_photo

WIDTH, HEIGHT = 37, 23


def values(most: int, bands: int) -> np.ndarray:
    drawn = np.random.default_rng(most).integers(0, most + 1, (HEIGHT, WIDTH * bands))
    drawn[0, :2] = 0, most
    return drawn


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I"):
            return np.round(np.asarray(image) / 257).astype(np.uint8)[..., None].repeat(3, axis=2)
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("most", [1, 2, 100, 254, 255, 256, 1000, 65534, 65535])
def test_raw_and_plain_values_are_scaled_as_pillow_scales_them(most: int, bands: int) -> None:
    drawn = values(most, bands)
    raw = b"P%d # raw\n%d %d\n%d\n" % (5 if bands == 1 else 6, WIDTH, HEIGHT, most)
    raw += drawn.astype(">u2" if most > 255 else "u1").tobytes()
    text = b"#1 2 3\r".join(b"\t".join(b"%d" % value for value in row) + b"\n" for row in drawn)
    plain = b"P%d\n#a comment\n%d %d %d\n" % (2 if bands == 1 else 3, WIDTH, HEIGHT, most) + text
    for data in (raw, plain, plain + b"8 9"):
        np.testing.assert_array_equal(load_image(data), by_pillow(data))
    assert (load_image(raw) == load_image(plain)).all()


def test_bits_may_be_packed_apart_or_close() -> None:
    drawn = values(1, 1)
    packed = b"P4\n%d %d\n" % (WIDTH, HEIGHT) + np.packbits(drawn.astype(np.uint8), axis=1).tobytes()
    close = b"P1 %d %d\n" % (WIDTH, HEIGHT) + b"".join(b"%d" % bit for bit in drawn.flat)
    apart = b"P1\n%d %d\n" % (WIDTH, HEIGHT) + b" ".join(b"%d" % bit for bit in drawn.flat) + b"\n# end"
    for data in (packed, close, apart):
        np.testing.assert_array_equal(load_image(data), by_pillow(data))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"1 2 x 4 " * 400, "among its values"),
        (b"1 -2 3 4 " * 400, "among its values"),
        (b"1 256 3 4 " * 400, "above the largest"),
        (b"9" * 5000, "above the largest"),
        (b"", "only 0 of its 23 rows"),
    ],
)
def test_an_invalid_value_is_damage(body: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        load_image(b"P2\n%d %d\n255\n" % (WIDTH, HEIGHT) + body)


@pytest.mark.parametrize(
    "header", [b"P2\n37", b"P2\n37 23\n0\n", b"P2\n37 23\n65536\n", b"P2\n-37 23\n255\n", b"P2\na b\n"]
)
def test_a_malformed_header_is_damage(header: bytes) -> None:
    with pytest.raises(ImageError, match="damaged"):
        load_image(header)


def test_of_plain_values_that_end_early_the_rest_is_black() -> None:
    text = b"200 " * (WIDTH * 15 + 3)
    photo = load_photo(b"P2\n%d %d\n255\n" % (WIDTH, HEIGHT) + text)
    assert (photo.pixels[:15] == 200).all()
    assert (photo.pixels[15:] == 0).all()
    assert photo.notes == ("photo: its last bytes are missing; 8 of its 23 rows are black",)
