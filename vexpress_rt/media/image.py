"""Photos: decoding of common raster files to (H, W, 3) uint8 RGB, and the crop to the bundle's picture.

Only formats whose bytes are pixels are enabled: formats that are programs (PostScript, PDF) or that refer to other
files are refused as "not a picture". Memory and time are bounded before a file is decoded: `photos` reads its container
and removes all data that affects no pixel.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import PIL
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from vexpress_rt.config import CROP_MODES, check_choice
from vexpress_rt.errors import ImageError, KeypointError
from vexpress_rt.media.photos import containers
from vexpress_rt.media.photos.containers import FORMATS
from vexpress_rt.media.photos.encoded_photo import (
    DamagedError,
    EncodedPhoto,
    Gap,
    RefusedError,
    differing_rows,
    missing_rows,
    several_pictures,
)
from vexpress_rt.types import Crop, Float32, UInt8, check_finite_points
from vexpress_rt.utils.paths import input_file

MIN_SIDE = 16
MAX_PIXELS = 100_000_000
MAX_JPEG_PIXELS = 220_000_000  # a JPEG can be decoded at half its size
MAX_BYTES = 256 * 2**20
# Bytes during decoding, the file included: 80 megapixels of RGB take 4 bytes each in Pillow and 3 in the result.
MAX_MEMORY = 565_000_000

_ORIENTATION = 0x0112
_STRIP = 2**20  # pixels that are converted at once
_GREY = {"CMYK": 64}  # value of missing rows after decoding a JPEG; 128 in other modes


@dataclass(frozen=True)
class Photo:
    """A decoded photo.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, upright.
        size: (H, W) of the full picture in pixels.
        reduction: 1, or 2 for a JPEG decoded at half size; then h = ceil(H / 2) and w = ceil(W / 2).
        notes: Repairs and omissions, for `Video.notes`.
    """

    pixels: UInt8 = field(repr=False)
    size: tuple[int, int]
    reduction: int = 1
    notes: tuple[str, ...] = ()


def load_photo(source: str | os.PathLike[str] | bytes | UInt8) -> Photo:
    """Read and decode a photo.

    Files may be JPEG, PNG, WebP, AVIF, BMP, TIFF, GIF, JPEG 2000, PNM or, with pillow-heif installed, HEIC, in any
    colour mode: grey, palette and CMYK are converted, 16-bit channels are reduced to 8, transparency is composited on
    white, and the EXIF orientation is applied. Colour profiles are ignored, as in the public implementation. A
    photo with a missing end is accepted if its decoder accepts it and at least half of its rows can be decoded.

    Args:
        source: The path of a file, its bytes, or an (H, W, 3) uint8 RGB array, which is used as it is. Grey and
            RGBA arrays are refused, because their meaning is ambiguous.

    Returns:
        The decoded photo with its notes.

    Raises:
        ImageError: The file is missing, not a picture, damaged, animated or of several pages; it has more than
            `MAX_PIXELS` pixels (`MAX_JPEG_PIXELS` for JPEG) or `MAX_BYTES` bytes, or a side below `MIN_SIDE` pixels; or
            its decoding would take more than `MAX_MEMORY` bytes, or minutes.
    """
    if isinstance(source, np.ndarray):
        pixels = _check_array(source)
        return Photo(pixels, pixels.shape[:2])
    if isinstance(source, (bytes, bytearray, memoryview)):
        size = memoryview(source).nbytes
        name = f"the image ({size} bytes)"
        _check_bytes(size, name)
        return _decode(_Content(bytes(source)), name)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(f"an image given as {type(source).__name__}; expected a path, bytes or (H, W, 3) uint8 array")
    path = input_file(source, "the image", "a picture file", ImageError)
    try:
        with path.open("rb") as file:
            _check_bytes(os.fstat(file.fileno()).st_size, str(path))
            content = _Content(file.read(MAX_BYTES))
    except OSError as error:
        raise ImageError(f"the image {path} cannot be read ({error}): check its permissions") from error
    except MemoryError as error:
        raise _out_of_memory(str(path), path.stat().st_size) from error
    return _decode(content, str(path))


def face_crop(source: tuple[int, int], size: tuple[int, int], keypoints: Float32 | None, mode: str) -> Crop:
    """Choose the part of a picture that becomes the bundle's picture.

    Args:
        source: (height, width) of the picture in pixels.
        size: (height, width) of the bundle's picture in pixels.
        keypoints: (3, 2) float32, x then y in pixels of the picture (left eye, right eye, nose), or None.
        mode: "face" takes the largest rectangle in the picture with the bundle's aspect ratio. Its centre is as near as
            possible to the mean of the keypoints, or to the picture's centre without keypoints. "none" stretches the
            whole picture, as the public implementation does.

    Raises:
        KeypointError: The points have another shape, are not finite, or all lie outside the picture.
        ConfigError: An unknown mode.
    """
    check_choice("crop", mode, CROP_MODES)
    height, width = source
    centre = (width / 2, height / 2)
    if keypoints is not None:
        centre = _face_centre(np.asarray(keypoints), height, width)
    # Compared as integers, so that a picture of the bundle's aspect ratio is used whole, without rounding.
    wide, tall = width * size[0], height * size[1]
    if mode == "none" or wide == tall:
        return Crop(0.0, 0.0, float(width), float(height), size, source)
    crop_width = tall / size[0] if wide > tall else float(width)
    crop_height = float(height) if wide > tall else wide / size[1]
    left = min(max(centre[0] - crop_width / 2, 0.0), width - crop_width)
    top = min(max(centre[1] - crop_height / 2, 0.0), height - crop_height)
    return Crop(left, top, crop_width, crop_height, size, source)


def apply_crop(image: UInt8, crop: Crop, reduction: int = 1) -> UInt8:
    """Crop a picture and scale it to the bundle's size with Pillow's bicubic filter.

    A crop of the whole picture is Pillow's plain bicubic resize; without a change of size it is the identity.

    Args:
        image: (H, W, 3) uint8 RGB.
        crop: The crop, in pixels of the full picture.
        reduction: `Photo.reduction` of the picture.

    Returns:
        (h, w, 3) uint8 RGB of `crop.size`.

    Raises:
        ImageError: The picture has another size than the crop was made for.

    Source: docs/model/specification.md, stage 1.
    """
    image = _check_array(image)
    if image.shape[:2] != tuple(-(-side // reduction) for side in crop.source):
        raise ImageError(
            f"a picture of {image.shape[0]} x {image.shape[1]} pixels (height x width) with a crop made for "
            f"{crop.source[0]} x {crop.source[1]}: make the crop with face_crop for this picture"
        )
    height, width = crop.source
    # left + width may exceed the picture by a rounding error, which Pillow refuses.
    box = (crop.left, crop.top, min(crop.left + crop.width, width), min(crop.top + crop.height, height))
    if reduction != 1:
        box = (box[0] / reduction, box[1] / reduction, box[2] / reduction, box[3] / reduction)
    scaled = Image.fromarray(image).resize((crop.size[1], crop.size[0]), Image.Resampling.BICUBIC, box=box)
    return np.array(scaled)


def _face_centre(points: Float32, height: int, width: int) -> tuple[float, float]:
    if points.shape != (3, 2):
        raise KeypointError(
            f"a portrait's keypoints of shape {points.shape}; expected (3, 2): left eye, right eye, nose, each x then y"
        )
    check_finite_points(points[None])
    inside = (points >= 0).all(axis=1) & (points[:, 0] <= width) & (points[:, 1] <= height)
    if not inside.any():
        raise KeypointError(
            f"the face at {points.astype(np.float64).round(1).tolist()} lies wholly outside the picture of "
            f"{width} x {height} pixels (width x height): give keypoints in pixels of this picture, after its EXIF "
            "orientation"
        )
    x, y = points.mean(axis=0, dtype=np.float64)
    return float(x), float(y)


def _check_array(image: UInt8) -> UInt8:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(
            f"an image array of shape {image.shape} and dtype {image.dtype}; expected (H, W, 3) uint8 RGB: "
            "stack a grey picture three times, drop or blend an alpha channel, scale other dtypes to 0..255"
        )
    _check_size(image.shape[1], image.shape[0], "the image array")
    if isinstance(image, np.ma.MaskedArray) and np.ma.is_masked(image):
        raise ImageError("an image array with masked pixels; expected all of them: fill them, as by image.filled(255)")
    try:
        return np.ascontiguousarray(image)
    except MemoryError as error:
        raise _out_of_memory("the image array", image.size) from error


def _check_size(width: int, height: int, name: str, most: int = MAX_PIXELS) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name} has {width} x {height} pixels; expected at least {MIN_SIDE} a side: use a larger one")
    if width * height > most:
        raise ImageError(
            f"{name} has {width} x {height} pixels, {width * height / 1e6:.0f} million; "
            f"expected at most {most / 1e6:.0f} million: scale the photo down"
        )


def _check_bytes(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise ImageError(f"{name} has {size} bytes; expected at most {MAX_BYTES}: scale it down")


class _Content:
    """The bytes of a file; `take` drops the reference, so that the decoder can free them."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self) -> bytes:
        data, self._data = self._data, b""
        return data


def _decode(content: _Content, name: str) -> Photo:
    need = 0
    try:
        encoded = containers.read(content.take())
        if encoded is None:
            raise ImageError(
                f"{name} is not a picture that can be read; expected one of {', '.join(FORMATS)}: "
                "convert it to PNG or JPEG"
            )
        _check_size(encoded.width, encoded.height, name, MAX_JPEG_PIXELS if encoded.kind == "JPEG" else MAX_PIXELS)
        need, reduction = _need(encoded, 1), 1
        if need > MAX_MEMORY and encoded.kind == "JPEG":
            need, reduction = _need(encoded, 2), 2
        _check_need(encoded, need, name)
        return _decoded(encoded, reduction, name)
    except ImageError:
        raise
    except RefusedError as error:
        raise ImageError(f"{name} {error}") from error
    except UnidentifiedImageError as error:  # its message contains an object's address
        raise _damaged(name, "its header is malformed") from error
    except Exception as error:  # on malformed files Pillow's decoders raise errors of any kind
        if isinstance(error, MemoryError) or _memory_is_short(need):
            raise _out_of_memory(name, need) from error
        raise _damaged(name, error) from error


def _damaged(name: str, why: object) -> ImageError:
    return ImageError(
        f"{name} is damaged, truncated or of an unusual kind ({why}); expected a whole picture: "
        "transfer it again, or save it as PNG or JPEG"
    )


def _need(encoded: EncodedPhoto, reduction: int) -> int:
    """Return the peak memory in bytes: of decoding, or of cropping, when Pillow holds 4 bytes per pixel."""
    area = reduction**2
    return max(len(encoded.data) + encoded.memory + encoded.bands * encoded.pixels // area, 7 * encoded.pixels // area)


def _check_need(encoded: EncodedPhoto, need: int, name: str) -> None:
    if need > MAX_MEMORY:
        raise ImageError(
            f"{name} has {encoded.width} x {encoded.height} pixels, which as {encoded.kind} of this colour mode take "
            f"up to {need / 1e6:.0f} MB to decode; expected at most {MAX_MEMORY / 1e6:.0f}: scale the photo down"
        )
    if _memory_is_short(need):
        raise _out_of_memory(name, need)


def _memory_is_short(need: int) -> bool:
    """Return whether `need` bytes cannot be allocated; decoders report that as damage."""
    try:
        np.empty(need, np.uint8)
    except MemoryError:
        return True
    return False


def _out_of_memory(name: str, need: int) -> ImageError:
    takes = f", which takes up to {need / 1e6:.0f} MB" if need else ""
    return ImageError(f"memory ran out while {name} was decoded{takes}: free memory, or scale the photo down")


def _decoded(encoded: EncodedPhoto, reduction: int, name: str) -> Photo:
    if encoded.fill is not None:
        pixels = np.empty((encoded.height, encoded.width, 3), np.uint8)
        notes = encoded.fill(encoded.take(), pixels)
        return Photo(pixels, pixels.shape[:2], notes=encoded.notes + notes)
    # Pillow warns about large pictures, whose size is checked already, and about metadata, which is not used.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gap = encoded.gap
        images = _filled(encoded.take(), gap, encoded.kind, reduction) if gap else iter(())
        image, encoded = (next(images), encoded) if gap else _loaded(encoded, reduction)
        with image:
            size = (encoded.width, encoded.height) if reduction > 1 else image.size
            if image.width * image.height > encoded.pixels:
                raise DamagedError(f"it decodes to {image.width} x {image.height} pixels, more than it declares")
            _check_size(*image.size, name)
            orientation = encoded.orientation or image.getexif().get(_ORIENTATION, 1)
            pixels, stored = _canvas(image.size, orientation)
            _convert(image, stored)
            mode = image.mode
        del image  # frees its decoder before the second picture is decoded
        notes = encoded.notes
        if gap:
            wrong = -(-_differing_rows(next(images), stored) * size[1] // len(stored))
            notes += (differing_rows(wrong, size[1], gap),)
    if reduction > 1:
        notes += (f"photo: {size[0]} x {size[1]} pixels are too many to decode in full; it is read at half its size",)
    if encoded.cut:
        shown = _shown_rows(stored, _GREY.get(mode, 128)) * size[1] // len(stored)
        notes += (missing_rows(shown, size[1], "grey"),)
    return Photo(pixels, size if orientation >= 5 else size[::-1], reduction, notes)


def _loaded(encoded: EncodedPhoto, reduction: int) -> tuple[Image.Image, EncodedPhoto]:
    data = encoded.take()
    try:
        return _load(data, encoded.kind, reduction), encoded
    except (OSError, SyntaxError, ValueError):
        if encoded.repair is None:
            raise
    # Outside of the handler, because the exception keeps the partly decoded picture in memory.
    encoded.data = data
    del data
    return _loaded(encoded.repair(encoded), reduction)


def _filled(data: bytes, gap: Gap, kind: str, reduction: int) -> Iterator[Image.Image]:
    """Yield the picture decoded with each of the fillers of `gap`, without those that do not decode."""
    for filler in gap.fillers:
        try:
            image = _load(b"".join([memoryview(data)[: gap.at], filler, memoryview(data)[gap.at :]]), kind, reduction)
        except (OSError, SyntaxError, ValueError, RuntimeError, EOFError):
            continue
        yield image
        del image
    raise DamagedError("its last bytes are missing, and it does not decode without them")


def _differing_rows(image: Image.Image, stored: UInt8) -> int:
    """Return the number of rows in which `image` differs from `stored` (H, W, 3)."""
    if image.size != (stored.shape[1], stored.shape[0]):
        return len(stored)
    step = max(1, _STRIP // image.width)
    return sum(
        int((_to_rgb(image.crop((0, top, image.width, min(top + step, image.height)))) != stored[top : top + step])
            .any(axis=(1, 2)).sum())
        for top in range(0, image.height, step)
    )  # fmt: skip


def _load(data: bytes, kind: str, reduction: int) -> Image.Image:
    with io.BytesIO(data) as stream:
        if kind == "HEIF":
            return _load_heif(stream)
        image = _opened(stream, kind, reduction)
        if getattr(image, "is_animated", False):
            raise several_pictures(f"a {kind}")
        if reduction > 1:
            image.draft(image.mode, (image.width // reduction, image.height // reduction))
        image.load()
        return image


def _opened(stream: io.BytesIO, kind: str, reduction: int) -> Image.Image:
    if reduction > 1:  # Image.open limits the full size
        return JpegImagePlugin.JpegImageFile(stream)
    Image.init()
    if kind not in Image.OPEN:
        raise RefusedError(f"is of the format {kind}, which Pillow {PIL.__version__} does not read: update Pillow")
    return Image.open(stream, formats=(kind,))


def _load_heif(stream: io.BytesIO) -> Image.Image:
    try:
        import pillow_heif
    except ImportError as error:
        raise RefusedError(
            "is a HEIC or HEIF photo, which needs pillow-heif: pip install pillow-heif, or save the photo as JPEG"
        ) from error
    file = pillow_heif.open_heif(stream, convert_hdr_to_8bit=True)
    picture: Image.Image = file[file.primary_index].to_pillow()
    return picture


def _canvas(size: tuple[int, int], orientation: int) -> tuple[UInt8, UInt8]:
    """Allocate an upright picture (H, W, 3); return it and a view of it in the stored orientation."""
    width, height = size
    pixels = np.empty((width, height, 3) if orientation >= 5 else (height, width, 3), np.uint8)
    stored = pixels.transpose(1, 0, 2) if orientation >= 5 else pixels
    rows = slice(None, None, -1 if orientation in (3, 4, 6, 7) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 7, 8) else 1)
    return pixels, stored[rows, columns]


def _convert(image: Image.Image, out: UInt8) -> None:
    """Convert `image` to RGB into `out` (H, W, 3), in strips, so that no second full picture is allocated."""
    if image.mode == "F":
        raise RefusedError("holds floating-point values (mode F); expected 8 or 16 bits: save the photo as PNG or JPEG")
    if image.mode == "I":
        low, high = image.getextrema()
        if low < 0 or high > 65535:  # type: ignore[operator]
            raise RefusedError(
                f"holds grey values of {low} to {high} in mode {image.mode}; expected 8 or 16 bits: save the photo as "
                "PNG or JPEG"
            )
    step = max(1, _STRIP // image.width)
    for top in range(0, image.height, step):
        strip = image.crop((0, top, image.width, min(top + step, image.height)))
        out[top : top + step] = _to_rgb(strip)


def _to_rgb(image: Image.Image) -> UInt8:
    """Return the pixels as uint8, (H, W, 3), or (H, W, 1) for grey of more than 8 bits."""
    if image.mode.startswith("I"):
        # Pillow's own conversion would clip at 255 instead of scaling.
        return np.round(np.asarray(image) / np.float64(257)).astype(np.uint8)[..., None]
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image.convert("RGB"))


def _shown_rows(stored: UInt8, grey: int) -> int:
    """Return the number of rows above the missing ones, whose right end is grey."""
    row = len(stored)
    while row and (stored[row - 1, -8:] == grey).all():
        row -= 1
    return row
