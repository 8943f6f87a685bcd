"""Photos of every kind become upright RGB; everything else is refused by name; crops keep the face."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.photo_bytes import gradient, load_image
from vexpress_rt.errors import ImageError
from vexpress_rt.media import image as module


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("PNG", 0), ("BMP", 0), ("TIFF", 0), ("PPM", 0), ("WEBP", 30), ("JPEG", 30), ("JPEG2000", 0), ("AVIF", 30)],
)
def test_common_formats_give_the_picture(kind: str, tolerance: int) -> None:
    loaded = load_image(encoded(Image.fromarray(gradient()), kind))
    assert loaded.dtype == np.uint8
    assert np.abs(loaded.astype(int) - gradient()).max() <= tolerance


def test_a_path_a_string_the_bytes_and_the_array_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(gradient()).save(path)
    for source in (path, str(path), path.read_bytes(), gradient()):
        np.testing.assert_array_equal(load_image(source), gradient())


def test_the_name_does_not_decide_the_format(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(Image.fromarray(gradient()), "PNG"))
    np.testing.assert_array_equal(load_image(path), gradient())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = gradient()
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1), 7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(load_image(data), upright)


def test_transparency_is_laid_on_white() -> None:
    layer = np.zeros((16, 16, 4), np.uint8)
    layer[..., 0] = 200
    layer[:, 8:, 3] = 255
    layer[:8, :8, 3] = 51
    loaded = load_image(encoded(Image.fromarray(layer), "PNG"))
    assert loaded[12, 2].tolist() == [255, 255, 255]
    assert loaded[12, 12].tolist() == [200, 0, 0]
    assert loaded[2, 2].tolist() == [244, 204, 204]


def test_transparent_grey_and_palette_entries_are_white() -> None:
    grey = Image.new("LA", (16, 16), (90, 0))
    palette = Image.new("P", (16, 16), 3)
    palette.putpalette([10, 20, 30] * 4)
    keyed = Image.new("RGB", (16, 16), (1, 2, 3))
    for data in (
        encoded(grey, "PNG"),
        encoded(palette, "PNG", transparency=3),
        encoded(palette, "GIF", transparency=3),
        encoded(keyed, "PNG", transparency=(1, 2, 3)),
    ):
        assert (load_image(data) == 255).all()


def test_grey_palette_and_bilevel_pictures_become_rgb() -> None:
    grey = Image.fromarray(gradient()[..., 0])
    np.testing.assert_array_equal(load_image(encoded(grey, "PNG")), np.repeat(gradient()[..., :1], 3, axis=2))
    palette = Image.fromarray(gradient()).quantize(16)
    np.testing.assert_array_equal(load_image(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
    bilevel = Image.fromarray(gradient()[..., 0] > 99)
    assert set(np.unique(load_image(encoded(bilevel, "PNG")))) == {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    deep = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    loaded = load_image(encoded(Image.fromarray(deep), kind))
    np.testing.assert_array_equal(loaded[..., 1], np.round(deep / 257))


def test_cmyk_becomes_rgb() -> None:
    inks = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(load_image(encoded(inks, "TIFF")).astype(int) - (255, 0, 0)).max() == 0


def test_of_a_phones_multi_picture_jpeg_the_first_is_taken() -> None:
    first, second = Image.fromarray(gradient()), Image.new("RGB", (56, 40))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    np.testing.assert_array_equal(load_image(data), load_image(encoded(first, "JPEG")))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.png does not exist"):
        load_image(tmp_path / "nowhere.png")


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"plain text, no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_a_file_that_is_not_a_raster_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"photo\.png is not a picture that can be read; expected one of .*JPEG"):
        load_image(path)


@pytest.mark.parametrize(
    ("kind", "kept"),
    [(kind, 0.5) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM")] + [("TIFF", 0.9)],
)
def test_a_truncated_file_is_refused(kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ImageError, match=r"truncated|not a picture"):
        load_image(data[: int(len(data) * kept)])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_and_several_pages_are_refused(kind: str) -> None:
    frames = [Image.fromarray(np.roll(gradient(), k, 0)) for k in range(3)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="several frames or pages"):
        load_image(data)


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = zlib.compress(bytes(1000))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_001, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(ImageError, match="at most 100 million"):
        load_image(png_header(side, side))


def test_a_large_photo_below_the_limit_raises_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(gradient()), "PNG")), gradient())


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.bmp"
    Image.fromarray(gradient()).save(path)
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with pytest.raises(ImageError, match=r"bytes; expected at most 1000"):
        load_image(path)


@pytest.mark.parametrize("shape", [(15, 40, 3), (40, 15, 3)])
def test_a_tiny_picture_is_refused(shape: tuple[int, ...]) -> None:
    tiny = np.zeros(shape, np.uint8)
    for source in (tiny, encoded(Image.fromarray(tiny), "PNG")):
        with pytest.raises(ImageError, match="expected at least 16 a side"):
            load_image(source)


@pytest.mark.parametrize(
    "array", [np.zeros((32, 32), np.uint8), np.zeros((32, 32, 4), np.uint8), np.zeros((32, 32, 3), np.float32)]
)
def test_arrays_that_are_not_rgb_bytes_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"expected \(H, W, 3\) uint8 RGB"):
        load_image(array)


def test_arrays_of_odd_strides_and_subclasses_are_taken_as_they_are() -> None:
    wide = np.zeros((40, 112, 3), np.uint8)
    wide[:, ::2] = gradient()
    flipped = np.ascontiguousarray(gradient()[::-1])[::-1]
    subclass = np.ma.MaskedArray(gradient())
    for array in (wide[:, ::2], flipped, np.asfortranarray(gradient()), subclass):
        loaded = load_image(array)
        assert type(loaded) is np.ndarray
        assert loaded.flags.c_contiguous
        np.testing.assert_array_equal(loaded, gradient())


def test_an_array_with_masked_pixels_is_refused() -> None:
    masked = np.ma.MaskedArray(gradient(), mask=gradient() > 200)
    with pytest.raises(ImageError, match=r"masked pixels.*filled"):
        load_image(masked)


def test_an_empty_array_and_one_beyond_the_limit_are_refused() -> None:
    with pytest.raises(ImageError, match="expected at least 16"):
        load_image(np.zeros((0, 40, 3), np.uint8))
    huge = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (20_000, 20_000, 3))
    with pytest.raises(ImageError, match="at most 100 million"):
        load_image(huge)


def test_other_types_are_refused() -> None:
    with pytest.raises(ImageError, match="given as int"):
        load_image(3)  # type: ignore[arg-type]


def test_deep_pictures_beyond_sixteen_bits_are_refused() -> None:
    data = encoded(Image.fromarray(np.full((16, 16), 0.5, np.float32)), "TIFF")
    with pytest.raises(ImageError, match="mode F"):
        load_image(data)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]), data=st.data())
def test_a_damaged_file_gives_a_picture_or_an_image_error(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(Image.fromarray(gradient()), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        loaded = load_image(bytes(content))
    except ImageError:
        return
    assert loaded.ndim == 3
    assert loaded.dtype == np.uint8
