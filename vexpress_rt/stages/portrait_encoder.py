"""Photos -> portraits, with the engines of a bundle. Face detection in pictures, for photos and driving videos."""

from __future__ import annotations

import os
from dataclasses import dataclass

from numpy.typing import ArrayLike

from vexpress_rt.backends.loaded_engines import Engines
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.config import CROP_MODES, check_choice
from vexpress_rt.errors import BundleNotFoundError, InputError
from vexpress_rt.face import detector
from vexpress_rt.face.keypoint_track import load_portrait_keypoints
from vexpress_rt.media import image
from vexpress_rt.stages.conditioning import encode_portrait
from vexpress_rt.stages.pose import check_face
from vexpress_rt.types import Crop, Face, Float32, Portrait, UInt8
from vexpress_rt.utils.project_links import EXPORTER

ImageSource = str | os.PathLike[str] | bytes | UInt8


@dataclass(frozen=True)
class CroppedPhoto:
    """A cropped photo that is not encoded yet; `Portrait` documents the attributes."""

    image: UInt8
    keypoints: Float32 | None
    crop: Crop
    crop_mode: str
    notes: tuple[str, ...] = ()


PortraitSource = Portrait | CroppedPhoto | ImageSource
PORTRAIT_ENGINES = ("vae_encoder", "reference_net")  # that encode a photo


class PortraitEncoder:
    """Reads photos and encodes them with the engines of a bundle."""

    def __init__(self, bundle: Bundle, engines: Engines) -> None:
        """Use a bundle and its engines, which are loaded on first use."""
        self._bundle = bundle
        self._engines = engines

    @property
    def size(self) -> tuple[int, int]:
        """Size (height, width) of portraits in pixels."""
        shape = self._bundle.manifest.shape
        return shape.height, shape.width

    def read(self, source: ImageSource, keypoints: ArrayLike | None, crop: str) -> CroppedPhoto:
        """Read a photo, find its face and crop it. No engine but the face detector is loaded.

        Args:
            source: The photo.
            keypoints: Keypoints of its face, or None to detect the face.
            crop: One of `config.CROP_MODES`.

        Raises:
            ConfigError: `crop` is unknown.
            InputError: The photo or the keypoints are unusable.
        """
        check_choice("crop", crop, CROP_MODES)
        photo = image.load_photo(source)
        found, notes = self._photo_keypoints(photo, keypoints, crop)
        region = image.face_crop(photo.size, self.size, found, crop)
        cropped_keypoints = None if found is None else region.to_cropped(found)
        cropped = image.apply_crop(photo.pixels, region, photo.reduction)
        return CroppedPhoto(cropped, cropped_keypoints, region, crop, (*photo.notes, *notes))

    def encode(self, photo: CroppedPhoto) -> Portrait:
        """Encode a photo: run the engines whose inputs depend on the photo alone.

        Args:
            photo: The photo, cut to the bundle's size.
        """
        with self._engines.loading(PORTRAIT_ENGINES) as loading:
            loading.wait()
        vae_encoder, reference_net = map(self._engines.get, PORTRAIT_ENGINES)
        reference = encode_portrait(vae_encoder, reference_net, photo.image)
        return Portrait(
            photo.image, photo.keypoints, photo.crop, reference, self._bundle.identity, photo.crop_mode, photo.notes
        )

    def accept(self, portrait: PortraitSource, mode: str, *, driven: bool) -> Portrait | CroppedPhoto:
        """Check a portrait, or read a photo, without loading any engine but the face detector.

        Args:
            portrait: A portrait of this bundle, or a photo.
            mode: The retargeting mode, of `pose.choose_retarget`.
            driven: Whether the video has keypoints or a driving video.

        Returns:
            The portrait, or the photo for `finish`.

        Raises:
            InputError: The portrait is of another bundle, or the photo was cropped to another size.
            NoFaceError: The mode needs the photo's face, and it is unknown.
        """
        accepted: Portrait | CroppedPhoto
        if isinstance(portrait, Portrait):
            accepted = portrait
            if portrait.bundle != self._bundle.identity:
                raise InputError(
                    f"the portrait was prepared with bundle {portrait.bundle or 'unknown'}, this one is "
                    f"{self._bundle.identity}: prepare it again with this generator"
                )
        elif isinstance(portrait, CroppedPhoto):
            accepted = portrait
            if portrait.crop.size != self.size:
                raise InputError(
                    f"the photo was cropped to {portrait.crop.size} (height, width), and this bundle's size is "
                    f"{self.size}: read it again with this generator"
                )
        else:
            accepted = self.read(portrait, None, CROP_MODES[0])
        self.check_face(accepted, mode, driven=driven)
        return accepted

    def finish(self, accepted: Portrait | CroppedPhoto) -> Portrait:
        """Return a portrait as it is; encode a photo."""
        return accepted if isinstance(accepted, Portrait) else self.encode(accepted)

    def check_face(self, photo: Portrait | CroppedPhoto, mode: str, *, driven: bool) -> None:
        """Raise NoFaceError if the retargeting mode needs the photo's face, and it is unknown."""
        check_face(mode, photo.keypoints, photo.crop.source, searched=self._bundle.has(FACE_DETECTOR), driven=driven)

    def find_faces(self, picture: UInt8) -> list[Face]:
        """Return the faces in a picture.

        Args:
            picture: (H, W, 3) uint8 RGB of any size.

        Raises:
            BundleNotFoundError: The bundle has no face detector.
        """
        if not self._bundle.has(FACE_DETECTOR):
            raise BundleNotFoundError(
                f"{self._bundle.folder} has no face detector, so faces cannot be found in pictures: give keypoints, or "
                "put insightface's det_10g.onnx into the checkpoint directory and build again with "
                f"`python -m export.build --engine {FACE_DETECTOR}` {EXPORTER}"
            )
        return detector.detect(self._engines.get(FACE_DETECTOR).run_positional, picture)

    def _photo_keypoints(
        self, photo: image.Photo, given: ArrayLike | None, crop: str
    ) -> tuple[Float32 | None, tuple[str, ...]]:  # fmt: skip
        """Return the keypoints (3, 2) of the photo's face, or None, and notes on the choice of the face."""
        if given is not None:
            return load_portrait_keypoints(given), ()
        if self._bundle.has(FACE_DETECTOR) and (faces := self.find_faces(photo.pixels)):
            keypoints = detector.largest_face(faces).keypoints[:3] * photo.reduction
            return keypoints, detector.similar_faces_note(faces, "photo")
        why = "no face was found in it" if self._bundle.has(FACE_DETECTOR) else "the bundle has no face detector"
        where = ", so it is cut around its centre" if crop == "face" else ""
        return None, (f"photo: {why}{where}",)
