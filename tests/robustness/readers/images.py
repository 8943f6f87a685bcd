"""Photos: every format of `image.FORMATS`, in several modes, with the metadata of cameras and programs."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from tests.robustness.cases import Case
from tests.robustness.mutations import TOKENS, mutate
from tests.robustness.shared import shared_cases

_SUFFIXES = {
    "AVIF": ".avif", "BMP": ".bmp", "GIF": ".gif", "JPEG": ".jpg", "JPEG2000": ".jp2", "PNG": ".png", "PPM": ".ppm",
    "TIFF": ".tif", "WEBP": ".webp",
}  # fmt: skip
# Mode and options for each writer.
_PLANS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "AVIF": (("RGB", {}), ("RGBA", {"quality": 30}), ("L", {"subsampling": "4:0:0"})),
    "BMP": (("RGB", {}), ("L", {}), ("P", {}), ("1", {}), ("RGBA", {})),
    "GIF": (("P", {}), ("L", {"interlace": 0}), ("P", {"transparency": 3})),
    "JPEG": (
        ("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True}), ("RGB", {"restart_marker_blocks": 2}),
        ("RGB", {"subsampling": 2, "quality": 30, "optimize": True}), ("YCbCr", {}), ("RGB", {"comment": b"hello"}),
    ),
    "JPEG2000": (
        ("RGB", {}), ("L", {}), ("RGBA", {}), ("I;16", {}), ("RGB", {"tile_size": (16, 16)}),
        ("RGB", {"irreversible": True, "num_resolutions": 2}), ("RGB", {"no_jp2": True}),
    ),
    "PNG": (("RGB", {}), ("L", {}), ("LA", {}), ("RGBA", {}), ("P", {}), ("I;16", {}), ("1", {}), ("P",
    {"transparency": 1})),
    "PPM": (("RGB", {}), ("L", {}), ("1", {}), ("I;16", {})),
    "TIFF": tuple(
        (mode, {"compression": compression})
        for mode, compression in (
            ("RGB", "raw"), ("RGB", "tiff_lzw"), ("RGB", "tiff_adobe_deflate"), ("RGB", "jpeg"), ("L", "packbits"),
            ("1", "group4"), ("1", "group3"), ("P", "tiff_lzw"), ("RGBA", "raw"), ("CMYK", "raw"), ("I;16", "raw"),
            ("I", "raw"), ("F", "raw"), ("LAB", "raw"), ("RGB", "zstd"), ("RGB", "lzma"),
        )
    ),
    "WEBP": (("RGB", {}), ("RGBA", {}), ("RGB", {"lossless": True}), ("RGBA", {"lossless": True, "exact": True})),
}  # fmt: skip
_TOKENS = (
    *TOKENS, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0", b"ICC_PROFILE\0\x01\x01",
    b"P3\n30 30\n255\n" + b"1 2 3 " * 900, b"P6 99999 99999 65535\n", b"%!PS-Adobe-3.0\n(../canary/secret.txt) run\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'><image href='../canary/secret.png'/></svg>", b"MPF\0II*\0",
    b"acTL\0\0\0\2",
)  # fmt: skip


class Images:
    """`load_photo`, by path and by bytes."""

    memory = 0
    noisy: tuple[bytes, ...] = (b"II", b"MM")  # libtiff

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def seeds(self) -> Sequence[Case]:
        return [*_written(), *_decorated(), *shared_cases(set(_SUFFIXES.values()) | {".jpeg"})]

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        if chance.random() < 0.05:
            return _bomb(chance)
        seed = chance.choice(seeds)
        kin = [other.content for other in seeds if other.suffix == seed.suffix] if chance.random() < 0.8 else [
            other.content for other in seeds
        ]  # fmt: skip
        return Case(seed.suffix, mutate(chance, seed.content, kin, _TOKENS))

    def read(self, path: Path) -> None:
        from vexpress_rt.media.image import MAX_PIXELS, MIN_SIDE, load_photo

        data = path.read_bytes()
        picture = load_photo(data if len(data) % 3 == 0 else path).pixels
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert min(picture.shape[:2]) >= MIN_SIDE
        assert picture.shape[0] * picture.shape[1] <= MAX_PIXELS


def _picture(mode: str, side: int = 48) -> Image.Image:
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    rgb = np.stack([x * 5, y * 5, (x ^ y) * 4], axis=2).astype(np.uint8)
    image = Image.fromarray(rgb)
    if mode == "I;16":
        return Image.fromarray((x * y * 25).astype(np.uint16))
    if mode == "LAB":
        return Image.frombytes("LAB", (side, side), rgb.tobytes())
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray((x * 5).astype(np.uint8)))
    return image.convert(mode)


def _written() -> Iterator[Case]:
    for kind, plans in _PLANS.items():
        for mode, options in plans:
            stream = io.BytesIO()
            _picture(mode).save(stream, kind, **options)
            yield Case(_SUFFIXES[kind], stream.getvalue())


def _decorated() -> Iterator[Case]:
    """Photos with EXIF, colour profiles, text, thumbnails, several pages or other depths."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8298] = 6, "a caption", "someone"
    exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "words " * 3000, zip=True)
    text.add_itxt("workflow", "{}" * 2000, "en", "workflow", zip=True)
    for kind in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF"):
        stream = io.BytesIO()
        more = {"pnginfo": text} if kind == "PNG" else {}
        _picture("RGB").save(stream, kind, exif=exif, icc_profile=b"profile" * 300, **more)
        yield Case(_SUFFIXES[kind], stream.getvalue())
    for kind in ("GIF", "TIFF", "WEBP", "PNG", "AVIF"):
        stream = io.BytesIO()
        _picture("RGB").save(stream, kind, save_all=True, append_images=[_picture("L").convert("RGB")] * 2)
        yield Case(_SUFFIXES[kind], stream.getvalue())
    stream = io.BytesIO()
    _picture("RGB").save(stream, "MPO", save_all=True, append_images=[_picture("RGB", 24)])
    yield Case(".jpg", stream.getvalue())
    yield Case(".ppm", b"P3\n# plain\n20 20\n255\n" + b" ".join(b"%d" % (i % 256) for i in range(1200)))
    yield Case(".pgm", b"P5\n20 20\n65535\n" + bytes(range(200)) * 4)


def _bomb(chance: random.Random) -> Case:
    """Return a small file that declares or decodes to a large picture."""
    width, height = chance.choice(
        ((9999, 9999), (16, 6_000_000), (65535, 1500), (20000, 20000), (2**31 - 1, 2**31 - 1))
    )
    kind = chance.randrange(4)
    if kind == 0:
        return Case(".pgm", b"P5\n%d %d\n%d\n" % (width, height, chance.choice((1, 255, 65535))))
    if kind == 1:
        mode, depth = chance.choice(((0, 16), (0, 1), (2, 8), (2, 16), (3, 8), (4, 16), (6, 8), (6, 16)))
        return Case(".png", _png_bomb(min(width, 65535), min(height, 65535), depth, mode, chance.random() < 0.5))
    if kind == 2:
        size = (min(width, 16383), min(height, 6000))
        stream = io.BytesIO()
        Image.new(chance.choice(("RGB", "RGBA")), size, "red").resize((64, 64)).save(stream, "WEBP", lossless=True)
        data = bytearray(stream.getvalue())
        bits = (size[0] - 1) | (size[1] - 1) % 16384 << 14
        data[21:25] = (int.from_bytes(data[21:25], "little") & 0xF0000000 | bits).to_bytes(4, "little")
        return Case(".webp", bytes(data))
    stream = io.BytesIO()
    _picture("RGB").save(stream, "JPEG", progressive=True)
    data = bytearray(stream.getvalue())
    frame = data.find(b"\xff\xc2")
    data[frame + 5 : frame + 9] = min(height, 9000).to_bytes(2, "big") + min(width, 9000).to_bytes(2, "big")
    scan = data.rfind(b"\xff\xda")
    return Case(".jpg", bytes(data[:-2] + data[scan:-2] * chance.choice((1, 50, 400)) + data[-2:]))


def _png_bomb(width: int, height: int, depth: int, mode: int, interlaced: bool) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, mode, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(768)) if mode == 3 else b""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[mode]
    size = min((width * channels * depth // 8 + 1) * height, 300 << 20)
    squeeze, body = zlib.compressobj(9), b""
    for start in range(0, size, 1 << 20):
        body += squeeze.compress(bytes(min(1 << 20, size - start)))
    body += squeeze.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + chunk(b"IDAT", body) + chunk(b"IEND", b"")
