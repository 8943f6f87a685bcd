"""Photos with odd metadata, wrong checksums or a missing end are decoded as viewers do, with a note."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.photo_bytes import encoded, picture
from vexpress_rt.errors import ImageError
from vexpress_rt.media.image import load_photo


def test_a_whole_photo_has_no_note() -> None:
    for kind in ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF", "GIF"):
        assert load_photo(encoded(kind)).notes == ()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM"])
def test_the_missing_rows_of_a_truncated_photo_are_black(kind: str) -> None:
    data = encoded(kind)
    photo = load_photo(data[: len(data) * 8 // 10])
    there = (photo.pixels == picture()).all(axis=(1, 2))
    black = (photo.pixels == 0).all(axis=(1, 2))
    assert (there ^ black).all()
    assert there.sum() > 100
    assert photo.notes == (f"photo: its last bytes are missing; {black.sum()} of its 160 rows are black",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM"])
def test_less_than_half_of_a_photo_is_damaged(kind: str) -> None:
    data = encoded(kind)
    with pytest.raises(ImageError, match=r"damaged.*only \d+ of its 160 rows can be decoded"):
        load_photo(data[: len(data) * 3 // 10])


def test_bytes_after_the_end_are_skipped() -> None:
    for kind in ("JPEG", "PNG", "GIF"):
        data = encoded(kind)
        photo = load_photo(data + b"\xff\xda\xff\xd8 a film that belongs to the photo" * 100)
        np.testing.assert_array_equal(photo.pixels, load_photo(data).pixels)
        assert photo.notes == ()
