"""Photos without their last bytes are decoded as far as possible, also in formats whose decoders need all bytes."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.support.photo_bytes import encoded, noise
from vexpress_rt.errors import ImageError
from vexpress_rt.media.image import load_photo


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
