"""GIF pictures without their last bytes are decoded up to there."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.support.photo_bytes import ALL_ROWS, encoded, noise, picture
from vexpress_rt.errors import ImageError
from vexpress_rt.media.image import load_photo
from vexpress_rt.media.photos import gif


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
