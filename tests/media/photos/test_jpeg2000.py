"""JPEG 2000: pictures without their last bytes, and limits on the number of packets."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.photo_bombs import jpeg2000
from tests.support.photo_bytes import ALL_ROWS, encoded, load_image, noise, picture
from vexpress_rt.errors import ImageError
from vexpress_rt.media.image import load_photo


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


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"block": 0}, "code-blocks of 16 pixels; expected at least 256"),
        ({"precinct": 1, "levels": 3}, "packets; expected at most 1000000"),
        ({"layers": 65535, "levels": 5}, "packets; expected at most 1000000"),
    ],
)
def test_a_jpeg_2000_of_many_records_is_refused(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        load_image(jpeg2000(2000, **options))
