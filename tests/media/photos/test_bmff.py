"""AVIF photos whose container hides the number of frames are refused."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from tests.support.photo_bytes import load_image
from vexpress_rt.errors import ImageError


def test_an_avif_of_many_hidden_frames_is_refused() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "AVIF")
    data = stream.getvalue()
    start = data.index(b"mdat") + 4
    coded = data[start:]
    frame = coded[4 + coded[3] :]  # after a delimiter of two bytes and the sequence header
    assert frame[0] >> 3 & 15 == 6
    longer = coded + frame * 20
    places = data[:start].replace(struct.pack(">I", len(coded)), struct.pack(">I", len(longer)))
    assert places != data[:start]
    with pytest.raises(ImageError, match="is an AVIF whose picture has 21 coded frames; expected at most 8"):
        load_image(places[:-8] + struct.pack(">I", 8 + len(longer)) + b"mdat" + longer)
