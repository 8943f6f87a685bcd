"""No photo takes more than 600 MB and 10 s: others are refused with a reason before they are decoded."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.paths import ROOT
from tests.support.photo_bombs import BOMBS, png_chunk, side, small_png
from tests.support.photo_bytes import load_image
from tests.support.photo_limits import LARGEST, MOST_MEGABYTES, MOST_SECONDS, measure
from vexpress_rt.errors import ImageError
from vexpress_rt.media import image as module
from vexpress_rt.media.image import apply_crop, face_crop, load_photo

# Bombs that take long to make, or much room on the disk, are tried smaller; scripts/measure_photos.py tries them whole.
SCALES = {
    "JPEG, RGB": 0.1, "JPEG, CMYK": 0.1, "JPEG, progressive, 4:4:4": 0.1, "JPEG, progressive, CMYK": 0.1,
    "JPEG, 150 MB of EXIF": 0.1, "TIFF, RGBA, one strip": 0.1, "WebP, lossless": 0.1, "WebP, lossy": 0.1, "AVIF": 0.1,
    "PPM, plain, 200 MB": 0.1, "PPM, of 254 values": 0.1, "PPM": 0.1, "BMP": 0.1, "BMP, runs of one pixel": 0.1,
    "GIF, 100 MB of comments": 0.1, "GIF, large": 0.1,
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_no_bomb_takes_more_than_600_mb_and_10_s(tmp_path: Path) -> None:
    measured = measure(tmp_path, {name: SCALES.get(name, 1.0) for name in BOMBS})
    assert max(seconds for _, seconds, _ in measured.values()) < MOST_SECONDS
    assert max(grown for grown, _, _ in measured.values()) < MOST_MEGABYTES


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_the_largest_photos_that_are_taken_need_no_more(tmp_path: Path) -> None:
    measured = measure(tmp_path, LARGEST)
    assert all(outcome.startswith("(") for _, _, outcome in measured.values()), measured
    assert max(seconds for _, seconds, _ in measured.values()) < MOST_SECONDS
    assert max(grown for grown, _, _ in measured.values()) < MOST_MEGABYTES


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_photos_that_are_decoded_twice_because_their_end_is_missing_need_no_more(tmp_path: Path) -> None:
    measured = measure(tmp_path, {"WebP, lossy": 0.23, "JPEG, progressive, 4:4:4": 0.5, "GIF, large": 0.5}, cut=5)
    assert all(outcome.startswith("(") for _, _, outcome in measured.values()), measured
    assert max(seconds for _, seconds, _ in measured.values()) < MOST_SECONDS
    assert max(grown for grown, _, _ in measured.values()) < MOST_MEGABYTES


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_one_of_the_kind_is_a_picture_or_refused(name: str) -> None:
    content = BOMBS[name](0.0005)
    with contextlib.suppress(ImageError):
        assert load_image(content).dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("PNG, RGBA", r"as PNG of this colour mode take up to 686 MB to decode; expected at most 565: scale"),
        ("TIFF, int32", r"as TIFF of this colour mode take up to 686 MB"),
        ("WebP, 34 bytes", r"as WEBP of this colour mode take up to 1960 MB"),
        ("JPEG, progressive, 400 scans", r"is a JPEG of 405 scans; expected at most \d+ for its .* million pixels"),
        ("JPEG 2000, RGB", r"is a JPEG 2000 of 81000000 pixels; expected at most 16000000"),
        ("TIFF, float", r"floating-point values \(mode F\)"),
        ("TIFF, a strip a row", r"2000000 strips or tiles; expected at most 50000"),
        ("TIFF, tiles of 1 GB", r"take up to 2\d+ MB to decode"),
        ("PNG, two million chunks", r"more than 200000 chunks"),
        ("BMP, runs of one pixel", r"run-length coded BMP of .* million pixels; expected at most"),
        ("GIF, large canvas", r"as GIF of this colour mode take up to 686 MB"),
    ],
)
def test_a_bomb_is_refused_before_it_is_decoded(name: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(ImageError, match=reason):
        load_image(BOMBS[name](1.0))


def test_large_metadata_is_not_read() -> None:
    for name, scale in (("JPEG, 150 MB of EXIF", 0.01), ("PNG, 4000 texts", 1.0), ("PNG, a profile of 1 GB", 1.0)):
        assert load_photo(BOMBS[name](scale)).notes == ()


def test_many_texts_that_could_hold_the_orientation_are_not_all_unpacked() -> None:
    text = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + b"x\x9c" + bytes(10))
    assert load_image(small_png([text] * 10_000)).shape == (32, 32, 3)


def test_a_size_that_the_container_makes_small_is_found_in_the_pixels() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (600, 400)).save(stream, "AVIF")
    data = bytearray(stream.getvalue())
    at = data.index(b"ispe") + 8
    data[at : at + 8] = (64).to_bytes(4, "big") * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_PIXELS", 200_000)
        with pytest.raises(ImageError, match="has 600 x 400 pixels"):
            load_image(bytes(data))


def test_a_jpeg_too_large_to_be_decoded_whole_is_decoded_at_half_size(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:301, :401]
    smooth = np.stack([x * 255 // 401, y * 255 // 301, (x + y) // 3], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for orientation in ({}, {"exif": exif}):
        stream = io.BytesIO()
        Image.fromarray(smooth).save(stream, "JPEG", quality=95, **orientation)
        whole = load_photo(stream.getvalue())
        with monkeypatch.context() as patch:
            patch.setattr(module, "MAX_MEMORY", 500_000)
            half = load_photo(stream.getvalue())
        assert (whole.reduction, half.reduction) == (1, 2)
        assert half.size == whole.size == whole.pixels.shape[:2]
        assert half.pixels.shape[:2] == tuple(-(-each // 2) for each in whole.size)
        crop = face_crop(whole.size, (64, 64), np.array([[90, 80], [120, 80], [105, 110]], np.float32), "face")
        cut = apply_crop(half.pixels, crop, half.reduction).astype(int)
        assert np.abs(cut - apply_crop(whole.pixels, crop)).max() <= 4


def test_a_picture_of_another_size_than_the_crop_is_refused_at_half_size_too() -> None:
    crop = face_crop((301, 401), (64, 64), None, "face")
    with pytest.raises(ImageError, match="make the crop with face_crop"):
        apply_crop(np.zeros((150, 201, 3), np.uint8), crop, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "PPM", "WEBP"])
def test_where_memory_runs_out_the_photo_is_not_called_damaged(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "photo"
    Image.new("RGB", (3000, 3000)).save(path, kind)
    code = f"""
import resource
import numpy, PIL.ImageOps
from vexpress_rt.errors import ImageError
from vexpress_rt.media.image import load_photo
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
for spare in (10, 30, 50):
    resource.setrlimit(resource.RLIMIT_AS, (used + spare * 2**20, resource.RLIM_INFINITY))
    try:
        print(load_photo({str(path)!r}).pixels.shape)
    except ImageError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 3
    assert "memory ran out while" in lines[0]
    assert all("memory ran out while" in line or line == "(3000, 3000, 3)" for line in lines)


def test_an_error_of_any_kind_from_the_decoder_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (side(0.00002),) * 2).save(stream, "JPEG")
    errors = [
        SyntaxError("a"), OverflowError("a"), ZeroDivisionError("a"), RecursionError("a"), AssertionError("a"),
        KeyError("a"), OSError("a"), Image.DecompressionBombError("a"), EOFError("a"), NotImplementedError("a"),
    ]  # fmt: skip
    for error in errors:
        monkeypatch.setattr(Image, "open", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        with pytest.raises(ImageError, match="is damaged, truncated or of an unusual kind"):
            load_image(stream.getvalue())
    monkeypatch.setattr(Image, "open", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ImageError, match="memory ran out while"):
        load_image(stream.getvalue())
