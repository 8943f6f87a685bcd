"""WebP photos without their last bytes, and with odd metadata, are decoded as far as possible."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from tests.support.photo_bytes import ALL_ROWS, encoded, noise
from vexpress_rt.media.image import load_photo


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
