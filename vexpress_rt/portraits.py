"""Photos -> portraits, by the engines of a bundle; and faces in any picture."""

from __future__ import annotations

import logging
import os

from numpy.typing import ArrayLike

from vexpress_rt import faces, image
from vexpress_rt.bundle import Bundle
from vexpress_rt.conditions import encode_portrait
from vexpress_rt.config import CROP_MODES, check_choice
from vexpress_rt.errors import BundleNotFoundError, InputError
from vexpress_rt.keypoints import load_portrait_keypoints
from vexpress_rt.providers import Engines
from vexpress_rt.records import Face, Float32, Portrait, UInt8
from vexpress_rt.specs import FACE_DETECTOR

ImageSource = str | os.PathLike[str] | bytes | UInt8

_log = logging.getLogger("vexpress_rt")


class Portraits:
    """Makes the portraits of a bundle."""

    def __init__(self, bundle: Bundle, engines: Engines) -> None:
        self._bundle = bundle
        self._engines = engines

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of them, pixels."""
        shape = self._bundle.manifest.shape
        return shape.height, shape.width

    def prepare(self, source: ImageSource, keypoints: ArrayLike | None, crop: str) -> Portrait:
        """As `Generator.prepare` has it."""
        check_choice("crop", crop, CROP_MODES)
        photo = image.load_photo(source)
        own = self._own_keypoints(photo, keypoints)
        cut = image.face_crop(photo.size, self.size, own, crop)
        cropped = image.apply_crop(photo.pixels, cut, photo.reduction)
        reference = encode_portrait(self._engines.get("vae_encoder"), self._engines.get("reference_net"), cropped)
        points = None if own is None else cut.to_cropped(own)
        return Portrait(cropped, points, cut, reference, self._bundle.identity, crop, photo.notes)

    def accept(self, portrait: Portrait | ImageSource) -> Portrait:
        """A portrait, prepared now if it is not yet. Raises InputError for one of another bundle."""
        if not isinstance(portrait, Portrait):
            return self.prepare(portrait, None, CROP_MODES[0])
        if portrait.bundle != self._bundle.identity:
            raise InputError(
                f"the portrait was prepared with bundle {portrait.bundle or 'unknown'}, this one is "
                f"{self._bundle.identity}: prepare it again with this generator"
            )
        return portrait

    def find_faces(self, picture: UInt8) -> list[Face]:
        """The faces in a picture (H, W, 3) uint8 RGB of any size.

        Raises BundleNotFoundError if the bundle has no detector.
        """
        if not self._bundle.has(FACE_DETECTOR):
            raise BundleNotFoundError(
                f"{self._bundle.folder} has no face detector, so faces cannot be found in pictures: give keypoints, or "
                "put insightface's det_10g.onnx into the checkpoint directory and build again with "
                f"--engine {FACE_DETECTOR}"
            )
        return faces.detect(self._engines.get(FACE_DETECTOR).run_positional, picture)

    def _own_keypoints(self, photo: image.Photo, given: ArrayLike | None) -> Float32 | None:
        if given is not None:
            return load_portrait_keypoints(given)
        if self._bundle.has(FACE_DETECTOR) and (found := self.find_faces(photo.pixels)):
            return faces.largest_face(found).keypoints[:3] * photo.reduction
        why = "no face was found in the photo" if self._bundle.has(FACE_DETECTOR) else "the bundle has no face detector"
        _log.warning("%s, so the photo is cut around its centre; it can be driven with no_retarget only", why)
        return None
