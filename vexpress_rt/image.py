"""Photos: any common raster file -> (H, W, 3) uint8 RGB, and the part of it that fills the bundle's picture.

Only decoders that turn bytes into pixels are enabled: formats that are programs (PostScript, PDF) or that reach for
other files are refused as "not a picture".
"""

from __future__ import annotations

import io
import os
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vexpress_rt.config import CROP_MODES, check_choice
from vexpress_rt.errors import ImageError, KeypointError
from vexpress_rt.paths import input_file
from vexpress_rt.records import Crop, Float32, UInt8, check_finite_points

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MIN_SIDE = 16
# 100 megapixels hold the largest common phone photos but one; decoded they take 300 MB, 400 MB with alpha.
MAX_PIXELS = 100_000_000
MAX_BYTES = 512 * 2**20


def load_image(source: str | os.PathLike[str] | bytes | UInt8) -> UInt8:
    """A photo as (H, W, 3) uint8 RGB, upright.

    source: a file, the bytes of one, or an (H, W, 3) uint8 RGB array (taken as it is; grey and RGBA arrays are refused
        because their meaning would be a guess). Files may be JPEG, PNG, WebP, AVIF, BMP, TIFF, GIF, JPEG 2000
        or PNM, of any colour mode: grey, palette and CMYK are converted, 16 bits a channel are reduced
        to 8, transparency is laid on white, the EXIF orientation is applied. Colour profiles are ignored, as upstream
        does.

    Raises ImageError for a file that is missing, not a picture, truncated, animated or of several pages, larger than
    `MAX_PIXELS` pixels or `MAX_BYTES` bytes, or with a side below `MIN_SIDE` pixels.
    """
    if isinstance(source, np.ndarray):
        return _check_array(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), f"the image ({len(source)} bytes)")
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(f"an image given as {type(source).__name__}; expected a path, bytes or (H, W, 3) uint8 array")
    path = input_file(source, "the image", "a picture file", ImageError)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"{path} has {path.stat().st_size} bytes; expected at most {MAX_BYTES}: scale it down")
        with path.open("rb") as file:
            return _decode(io.BytesIO(file.read()), str(path))
    except OSError as error:
        raise ImageError(f"the image {path} cannot be read ({error}): check its permissions") from error


def face_crop(source: tuple[int, int], size: tuple[int, int], keypoints: Float32 | None, mode: str) -> Crop:
    """Which part of a picture becomes the bundle's picture.

    source: (height, width) of the picture, pixels.  size: (height, width) of the bundle's.
    keypoints: (3, 2), x then y, in pixels of the picture (left eye, right eye, nose), or None.
    mode: "face" takes the largest rectangle of the bundle's aspect that lies in the picture, its centre as near as
        possible to the mean of the three points (to the picture's centre without points); "none" stretches
        the whole picture, as upstream does.

    Raises KeypointError when the points are misshapen, not finite, or all outside the picture; ConfigError for another
    mode.
    """
    check_choice("crop", mode, CROP_MODES)
    height, width = source
    centre = (width / 2, height / 2)
    if keypoints is not None:
        centre = _face_centre(np.asarray(keypoints), height, width)
    # Compared in whole numbers, so that a picture of the bundle's aspect is taken whole, to the last bit.
    wide, tall = width * size[0], height * size[1]
    if mode == "none" or wide == tall:
        return Crop(0.0, 0.0, float(width), float(height), size, source)
    crop_width = tall / size[0] if wide > tall else float(width)
    crop_height = float(height) if wide > tall else wide / size[1]
    left = min(max(centre[0] - crop_width / 2, 0.0), width - crop_width)
    top = min(max(centre[1] - crop_height / 2, 0.0), height - crop_height)
    return Crop(left, top, crop_width, crop_height, size, source)


def apply_crop(image: UInt8, crop: Crop) -> UInt8:
    """Cut `crop` out of `image` (H, W, 3) uint8 RGB and scale it to `crop.size` with Pillow's bicubic filter.

    A crop of the whole picture is Pillow's plain bicubic resize (spec/model.md, stage 1); of equal size, the identity.
    Raises ImageError when the picture is not of the size that the crop was made for.
    """
    image = _check_array(image)
    if image.shape[:2] != crop.source:
        raise ImageError(
            f"a picture of {image.shape[0]} x {image.shape[1]} pixels (height x width) with a crop made for "
            f"{crop.source[0]} x {crop.source[1]}: make the crop with face_crop for this picture"
        )
    height, width = crop.source
    # left + width may exceed the picture by a rounding error, which Pillow refuses.
    box = (crop.left, crop.top, min(crop.left + crop.width, width), min(crop.top + crop.height, height))
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
    return np.ascontiguousarray(image)


def _check_size(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name} has {width} x {height} pixels; expected at least {MIN_SIDE} a side: use a larger one")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels, {width * height / 1e6:.0f} million; "
            f"expected at most {MAX_PIXELS / 1e6:.0f} million: scale the photo down"
        )


def _decode(stream: io.BytesIO, name: str) -> UInt8:
    try:
        # Pillow warns of large pictures, whose size is checked below, and of odd metadata, which is not used.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as image:
                _check_size(*image.size, name)
                _check_single(image, name)
                image.load()
                return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {error}; at most {MAX_PIXELS / 1e6:.0f} million pixels: scale it down") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not a picture that can be read; expected one of {', '.join(FORMATS)}: convert it to PNG or JPEG"
        ) from error
    except Exception as error:  # on malformed files Pillow's decoders raise errors of any kind
        raise ImageError(
            f"{name} is damaged, truncated or of an unusual kind ({error}); expected a whole picture: "
            "transfer it anew, or save it as PNG or JPEG"
        ) from error


def _check_single(image: Image.Image, name: str) -> None:
    # An MPO is a JPEG whose further pictures are previews, depth or the other eye; the first is the photo.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError(f"{name} is a {image.format} of several frames or pages; expected one picture: save a frame")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, which Pillow's own conversion would clip at 255 instead of scaling."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" or low < 0 or high > 65535:
        raise ImageError(
            f"grey values of {low} to {high} in mode {image.mode}; expected 8 or 16 bits: save the photo as PNG or JPEG"
        )
    return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")
