"""Small files that need much memory or time to decode, for tests and the fuzzer.

`BOMBS` maps a name to a function that returns the bytes for a scale in (0, 1]: 1 is the full size, smaller values have
fewer pixels or parts. Each takes at most a few seconds.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence

from PIL import Image

SIDE = 9900  # 98 megapixels, just below the limit


def side(scale: float, full: int = SIDE) -> int:
    """Return the side of a square with `scale` times as many pixels as one of side `full`."""
    return max(16, int(full * scale**0.5))


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def deflated_zeros(count: int) -> bytes:
    """Return a zlib stream of zeros, assembled from equal pieces, which is fast."""
    packer, block = zlib.compressobj(9, wbits=-15), bytes(2**20)
    piece = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(count % len(block))) + packer.flush()
    checksum = count % 65521 << 16 | 1
    return b"\x78\xda" + piece * (count // len(block)) + rest + struct.pack(">I", checksum)


def png(scale: float, depth: int, colour: int, samples: int, *, extra: bytes = b"", interlaced: bool = False) -> bytes:
    """Return a square PNG of zeros.

    Args:
        scale: As in `BOMBS`.
        depth: Bits per sample.
        colour: PNG colour type.
        samples: Samples per pixel.
        extra: Chunks before IDAT.
        interlaced: Whether the picture is interlaced.
    """
    width = side(scale)
    header = struct.pack(">IIBBBBB", width, width, depth, colour, 0, 0, interlaced)
    rows = deflated_zeros(width * ((width * depth * samples + 7) // 8 + 1) + (8 * width if interlaced else 0))
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    )


def small_png(extra: Sequence[bytes]) -> bytes:
    """Return a PNG of 32 x 32 pixels with the chunks `extra` before its pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0))
    rows = png_chunk(b"IDAT", zlib.compress(bytes(32 * 97)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + rows + png_chunk(b"IEND", b"")


def flat_jpeg(width: int, mode: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (width, width), 90).save(stream, "JPEG", **options)
    return stream.getvalue()


def jpeg_of_many_scans(scale: float) -> bytes:
    """Return a progressive JPEG whose last scan is repeated 400 times."""
    content = flat_jpeg(side(scale), "L", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 400 + b"\xff\xd9"


def jpeg_of_many_segments(scale: float) -> bytes:
    """Return a JPEG with 150 MB of EXIF segments, which Pillow joins one by one."""
    content = flat_jpeg(64, "RGB")
    segment = b"\xff\xe1" + struct.pack(">H", 65500) + b"Exif\0\0" + bytes(65492)
    return content[:2] + segment * int(2300 * scale) + content[2:]


def tiff(
    width: int, height: int, *, bits: Sequence[int], photometric: int, sample_format: int = 1, rows: int = 100,
    compression: int = 8, more: Sequence[tuple[int, int, Sequence[int]]] = (),
) -> bytes:  # fmt: skip
    """Return a TIFF of zeros whose strips are equal bytes in one place.

    Args:
        width: Pixels.
        height: Pixels.
        bits: Bits of each sample of a pixel.
        photometric: TIFF's photometric interpretation.
        sample_format: TIFF's sample format.
        rows: Rows per strip.
        compression: TIFF's compression: 8 for deflate, 1 for none.
        more: Further entries: (tag, type 3 or 4, values).
    """
    strips = -(-height // rows)
    strip = zlib.compress(bytes(rows * ((width * sum(bits) + 7) // 8)), 6)
    if compression == 1:
        strip = bytes(rows * ((width * sum(bits) + 7) // 8))
    entries = {
        256: (4, [width]), 257: (4, [height]), 258: (3, list(bits)), 259: (3, [compression]), 262: (3, [photometric]),
        273: (4, [8] * strips), 277: (3, [len(bits)]), 278: (4, [rows]), 279: (4, [len(strip)] * strips),
        339: (3, [sample_format] * len(bits)), **{tag: (kind, list(values)) for tag, kind, values in more},
    }  # fmt: skip
    heap, directory = bytearray(b"II*\0" + bytes(4) + strip), bytearray(struct.pack("<H", len(entries)))
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{'HI'[kind - 3]}", *values)
        if len(packed) > 4:
            heap += bytes(len(heap) % 2)
            packed, place = struct.pack("<I", len(heap)), packed
            heap += place
        directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    heap += bytes(len(heap) % 2)
    heap[4:8] = struct.pack("<I", len(heap))
    return bytes(heap + directory + bytes(4))


def square_tiff(scale: float, **options: object) -> bytes:
    width = side(scale)
    return tiff(width, width, **options)  # type: ignore[arg-type]


def webp_header(width: int) -> bytes:
    """Return 34 bytes that declare a square lossless WebP."""
    sizes = struct.pack("<I", (width - 1) | (width - 1) << 14)
    body = b"\x2f" + sizes + b"\x88\x88\x08\x07" + b"\0"
    return b"RIFF" + struct.pack("<I", 4 + 8 + len(body)) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


def flat(scale: float, kind: str, mode: str, full: int = SIDE, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (side(scale, full),) * 2).save(stream, kind, **options)
    return stream.getvalue()


def jpeg2000(
    width: int, components: int = 3, *, block: int = 4, precinct: int | None = None, levels: int = 0, layers: int = 1
) -> bytes:
    """Return a JPEG 2000 codestream of one tile whose packets are all empty.

    Args:
        width: Pixels, width and height.
        components: Number of components.
        block: Code-blocks have a side of 4 x 2^block pixels.
        precinct: PPx and PPy of the precincts; None for the largest.
        levels: Decomposition levels.
        layers: Quality layers.
    """
    sizes = struct.pack(">HIIIIIIIIH", 0, width, width, 0, 0, width, width, 0, 0, components)
    siz = sizes + b"\x07\x01\x01" * components
    cod = struct.pack(">BBHBBBBBB", precinct is not None, 0, layers, 0, levels, block, block, 0, 1)
    if precinct is not None:
        cod += bytes([precinct * 17]) * (levels + 1)
    qcd = bytes([0x40]) + bytes([8 << 3]) * (3 * levels + 1)
    head = b"".join(
        mark + struct.pack(">H", len(body) + 2) + body
        for mark, body in ((b"\xff\x51", siz), (b"\xff\x52", cod), (b"\xff\x5c", qcd))
    )
    data = bytes(components * (levels + 1) * layers + 64)
    sot = b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 14 + len(data), 0, 1)
    return b"\xff\x4f" + head + sot + b"\xff\x93" + data + b"\xff\xd9"


def plain_ppm(scale: float) -> bytes:
    """Return a plain (ASCII) PPM of 200 MB."""
    width = side(scale, 5800)
    return b"P3\n%d %d\n255\n" % (width, width) + b"7 " * (width * width * 3)


def ppm_of_odd_depth(scale: float) -> bytes:
    width = side(scale)
    return b"P6\n%d %d\n254\n" % (width, width) + bytes(width * width * 3)


def bmp_of_short_runs(scale: float) -> bytes:
    """Return a run-length encoded BMP with one run per pixel."""
    width = side(scale, 7000)
    runs = (b"\x01\x05" * width + b"\0\0") * width
    header = struct.pack("<IiiHHIIiiII", 40, width, width, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + bytes(range(256)) * 4 + runs


def gif(scale: float) -> bytes:
    """Return a GIF with a large canvas and a small picture."""
    stream = io.BytesIO()
    Image.new("P", (32, 32)).save(stream, "GIF")
    content = bytearray(stream.getvalue())
    content[6:10] = struct.pack("<HH", side(scale), side(scale))
    return bytes(content)


def gif_of_comments(scale: float) -> bytes:
    stream = io.BytesIO()
    Image.new("P", (32, 32)).save(stream, "GIF")
    content = stream.getvalue()
    comment = b"\x21\xfe" + (b"\xff" + bytes(255)) * int(400_000 * scale) + b"\0"
    return content[:-1] + comment + content[-1:]


def bmp(scale: float) -> bytes:
    width = side(scale)
    stride = (width * 3 + 3) // 4 * 4
    header = struct.pack("<IiiHHIIiiII", 40, width, width, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + stride * width, 0, 0, 54) + header + bytes(stride * width)


def _texts(count: int) -> list[bytes]:
    return [png_chunk(b"zTXt", b"text\0\0" + deflated_zeros(900_000))] * count


BOMBS: dict[str, Callable[[float], bytes]] = {
    "JPEG, RGB": lambda s: flat_jpeg(side(s), "RGB"),
    "JPEG, CMYK": lambda s: flat_jpeg(side(s), "CMYK"),
    "JPEG, progressive, 4:4:4": lambda s: flat_jpeg(side(s), "RGB", progressive=True, subsampling=0),
    "JPEG, progressive, CMYK": lambda s: flat_jpeg(side(s), "CMYK", progressive=True),
    "JPEG, progressive, 400 scans": jpeg_of_many_scans,
    "JPEG, 150 MB of EXIF": jpeg_of_many_segments,
    "PNG, RGB": lambda s: png(s, 8, 2, 3),
    "PNG, RGBA": lambda s: png(s, 8, 6, 4),
    "PNG, grey and alpha": lambda s: png(s, 8, 4, 2),
    "PNG, 16-bit grey": lambda s: png(s, 16, 0, 1),
    "PNG, 16-bit RGBA": lambda s: png(s, 16, 6, 4),
    "PNG, 1-bit": lambda s: png(s, 1, 0, 1),
    "PNG, palette and transparency": lambda s: png(
        s, 8, 3, 1, extra=png_chunk(b"PLTE", bytes(768)) + png_chunk(b"tRNS", bytes(256))
    ),
    "PNG, RGB with a transparent colour": lambda s: png(s, 8, 2, 3, extra=png_chunk(b"tRNS", bytes(6))),
    "PNG, interlaced RGBA": lambda s: png(s, 8, 6, 4, interlaced=True),
    "PNG, two million chunks": lambda s: small_png([png_chunk(b"abCd", b"")] * int(2_000_000 * s)),
    "PNG, 4000 texts": lambda s: small_png(_texts(int(4000 * s))),
    "PNG, a profile of 1 GB": lambda s: small_png([png_chunk(b"iCCP", b"p\0\0" + deflated_zeros(int(1e9 * s)))]),
    "TIFF, int32": lambda s: square_tiff(s, bits=[32], photometric=1, sample_format=2),
    "TIFF, float": lambda s: square_tiff(s, bits=[32], photometric=1, sample_format=3),
    "TIFF, 16-bit grey": lambda s: square_tiff(s, bits=[16], photometric=1),
    "TIFF, 16-bit RGBA": lambda s: square_tiff(s, bits=[16] * 4, photometric=2, more=[(338, 3, [2])]),
    "TIFF, RGBA, one strip": lambda s: square_tiff(s, bits=[8] * 4, photometric=2, rows=side(s), more=[(338, 3, [2])]),
    "TIFF, RGB, rotated": lambda s: square_tiff(s, bits=[8] * 3, photometric=2, more=[(274, 3, [6])]),
    "TIFF, CMYK": lambda s: square_tiff(s, bits=[8] * 4, photometric=5),
    "TIFF, LAB": lambda s: square_tiff(s, bits=[8] * 3, photometric=8),
    "TIFF, YCbCr": lambda s: square_tiff(s, bits=[8] * 3, photometric=6, more=[(530, 3, [1, 1])]),
    "TIFF, a strip a row": lambda s: tiff(16, int(2e6 * s), bits=[8], photometric=1, rows=1, compression=1),
    "TIFF, tiles of 1 GB": lambda s: tiff(
        32, 32, bits=[8], photometric=1, more=[(322, 4, [32768]), (323, 4, [32768]), (324, 4, [8]), (325, 4, [40])]
    ),
    "WebP, 34 bytes": lambda s: webp_header(side(s)),
    "WebP, lossless": lambda s: flat(s, "WEBP", "RGBA", lossless=True, method=0, quality=0),
    "WebP, lossy": lambda s: flat(s, "WEBP", "RGB", method=0),
    "AVIF": lambda s: flat(s, "AVIF", "RGB", speed=10, quality=30),
    "JPEG 2000, RGB": lambda s: jpeg2000(side(s, 9000)),
    "JPEG 2000, RGBA, small code-blocks": lambda s: jpeg2000(side(s, 9000), 4, block=0),
    "JPEG 2000, small precincts": lambda s: jpeg2000(side(s, 9000), 3, precinct=1),
    "JPEG 2000, 65535 layers": lambda s: jpeg2000(side(s, 4000), 3, layers=65535, precinct=8, levels=5),
    "PPM, plain, 200 MB": plain_ppm,
    "PPM, of 254 values": ppm_of_odd_depth,
    "PPM": lambda s: b"P6\n%d %d\n255\n" % (side(s), side(s)) + bytes(side(s) ** 2 * 3),
    "BMP": bmp,
    "BMP, runs of one pixel": bmp_of_short_runs,
    "GIF, large canvas": gif,
    "GIF, large": lambda s: flat(s, "GIF", "P"),
    "GIF, 100 MB of comments": gif_of_comments,
}  # fmt: skip
