"""HEIC photos are read where pillow-heif is installed; without it the message names it."""

from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from tests.support.photo_bytes import gradient, load_image
from vexpress_rt.errors import ImageError
from vexpress_rt.media import image as module
from vexpress_rt.media.image import load_photo
from vexpress_rt.media.photos import bmff


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + name + body


def container(brand: bytes, width: int = 64, height: int = 48) -> bytes:
    """A file of that brand that declares a picture and holds none."""
    size = box(b"ispe", bytes(4), struct.pack(">II", width, height))
    meta = box(b"meta", bytes(4), box(b"iprp", box(b"ipco", size)))
    return box(b"ftyp", brand, bytes(4), brand, b"mif1") + meta


def heic(picture: np.ndarray, **options: object) -> bytes:
    library = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    library.from_pillow(Image.fromarray(picture)).save(stream, quality=-1, chroma=444, **options)
    return stream.getvalue()


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1"])
def test_without_pillow_heif_the_message_names_it(brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"is a HEIC or HEIF photo, which needs pillow-heif: pip install pillow-heif"):
        load_image(container(brand))


def test_a_heic_is_the_picture() -> None:
    photo = load_photo(heic(gradient()))
    assert np.abs(photo.pixels.astype(int) - gradient()).max() <= 2
    assert photo.notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(gradient()).save(stream, "PNG", exif=exif)
    expected = load_image(stream.getvalue())
    turned = load_image(heic(gradient(), exif=exif.tobytes()))
    assert turned.shape == expected.shape
    assert np.abs(turned.astype(int) - expected).max() <= 2


def test_the_transparency_of_a_heic_is_laid_on_white() -> None:
    layer = np.zeros((64, 64, 4), np.uint8)
    layer[..., 0], layer[:, 32:, 3] = 200, 255
    loaded = load_image(heic(layer)).astype(int)
    assert np.abs(loaded[32, 8] - 255).max() <= 2
    assert np.abs(loaded[32, 56] - (200, 0, 0)).max() <= 2


@pytest.mark.parametrize(
    ("urn", "alpha"),
    [
        (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", True),
        (b"urn:mpeg:hevc:2015:auxid:1", True),
        (b"urn:mpeg:hevc:2015:auxid:2", False),
        (b"urn:com:apple:photo:2020:aux:hdrgainmap", False),
        (b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth", False),
    ],
)
@pytest.mark.parametrize("brand", [b"heic", b"avif"])
def test_of_auxiliary_pictures_alpha_alone_counts(urn: bytes, alpha: bool, brand: bytes) -> None:
    size = box(b"ispe", bytes(4), struct.pack(">II", 8064, 6048))
    auxiliary = box(b"auxC", bytes(4), urn, b"\0")
    properties = box(b"iprp", box(b"ipco", size, auxiliary))
    plain = bmff.read(box(b"ftyp", brand, bytes(4)) + box(b"meta", bytes(4), box(b"iprp", box(b"ipco", size))))
    parts = bmff.read(box(b"ftyp", brand, bytes(4)) + box(b"meta", bytes(4), properties))
    assert (parts.memory > plain.memory) == alpha
    assert alpha or parts.memory == plain.memory


def test_a_heic_with_a_gain_map_is_the_photo_alone() -> None:
    layer = np.dstack([gradient(), gradient()[..., 0]])
    data = heic(layer)
    start = data.index(b"urn:mpeg:")
    end = data.index(b"\0", start)
    urn = b"urn:com:apple:photo:2020:aux:hdrgainmap"[: end - start].ljust(end - start, b"\0")
    photo = load_photo(data[:start] + urn + data[end:])
    assert np.abs(photo.pixels.astype(int) - gradient()).max() <= 2
    assert photo.notes == ()


def test_a_heic_cut_off_is_damaged_and_one_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(gradient())
    with pytest.raises(ImageError, match="damaged"):
        load_image(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"has 8000 x 8000 pixels, which as HEIF of this colour mode take up to"):
        load_image(container(b"heic", 8000, 8000))
    with pytest.raises(ImageError, match="at most 100 million"):
        load_image(container(b"heic", 20_000, 20_000))
    monkeypatch.setattr(module, "MAX_MEMORY", 1000)
    with pytest.raises(ImageError, match="expected at most 0"):
        load_image(data)


def test_a_heic_with_the_size_of_another_is_no_way_around_the_limit() -> None:
    data = bytearray(heic(np.zeros((1024, 1024, 3), np.uint8)))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 64, 64)
    with pytest.raises(ImageError):
        load_image(bytes(data))
