"""JPEG photos without their last bytes are decoded as far as possible, with a note."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.support.photo_bytes import ALL_ROWS, encoded, picture
from vexpress_rt.errors import ImageError
from vexpress_rt.media.image import load_photo


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"progressive": True, "restart_marker_rows": 1}, {"restart_marker_rows": 1}],
)
def test_a_jpeg_without_its_end_marker_is_the_same_picture(missing: int, options: dict[str, object]) -> None:
    data = encoded("JPEG", **options)
    photo = load_photo(data[:-missing])
    np.testing.assert_array_equal(photo.pixels, load_photo(data).pixels)
    assert photo.notes == (ALL_ROWS,)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_missing_rows_of_a_truncated_jpeg_are_grey(mode: str) -> None:
    data = encoded("JPEG", Image.fromarray(picture()).convert(mode), subsampling=0, quality=95)
    photo, whole = load_photo(data[: len(data) * 7 // 10]), load_photo(data)
    alike = (photo.pixels == whole.pixels).all(axis=(1, 2))
    assert 90 <= alike.sum() < 120  # of 160 rows, in blocks of 8
    assert alike[: alike.sum()].all()
    grey = int((photo.pixels[:, -8:] == photo.pixels[-1, -1]).all(axis=(1, 2)).sum())
    assert photo.notes == (f"photo: its last bytes are missing; {grey} of its 160 rows are grey",)


def test_of_a_progressive_jpeg_cut_off_the_coarser_picture_is_taken() -> None:
    data = encoded("JPEG", progressive=True)
    photo = load_photo(data[: len(data) * 6 // 10])
    assert np.abs(photo.pixels.astype(int) - load_photo(data).pixels).mean() < 20
    assert photo.notes == ("photo: its last bytes are missing; it has less detail than the whole file",)
    assert load_photo(data[:-3]).notes == photo.notes  # within the last scan
    last_scan = data.rindex(b"\xff\xda")
    assert load_photo(data[:last_scan]).notes == photo.notes
    first_scan = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    with pytest.raises(ImageError, match="only the coarsest of it can be decoded"):
        load_photo(data[: first_scan - 10])


def test_an_orientation_is_applied_to_the_part_that_is_there() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded("JPEG", exif=exif, quality=95)
    photo = load_photo(data[: len(data) * 8 // 10])
    assert photo.pixels.shape == (120, 160, 3)
    assert (photo.pixels[-8:, :32] == 128).all()
    assert not (photo.pixels[:, 48:] == 128).all(axis=2).any()
