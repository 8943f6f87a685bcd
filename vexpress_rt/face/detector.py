"""Face detection in pictures: pre- and post-processing for the SCRFD network, which the caller passes as a function.

Source: docs/model/specification.md, "Face detector"; Guo et al., "Sample and Computation Redistribution for Efficient
Face Detection", arXiv 2105.04714.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import BackendError, ImageError, NoFaceError
from vexpress_rt.types import Face, Float32, UInt8
from vexpress_rt.utils.native_calls import native_call
from vexpress_rt.utils.project_links import EXPORTER

# (1, 3, S, S) float32 -> nine arrays: scores (N, 1), boxes (N, 4) and keypoints (N, 10), each for the three _STRIDES.
Detector = Callable[[Float32], Sequence[NDArray[Any]]]

DETECTION_SIZE = 512  # S, as in the public implementation
SCORE_THRESHOLD = 0.5
OVERLAP_THRESHOLD = 0.4
_SIMILAR = 0.5  # share of the largest face's area; another face of at least this share may be the intended one

_STRIDES = (8, 16, 32)
_OPENCV_THREADS = threading.Lock()
_ANCHORS = 2  # per cell
_FARTHEST = 1e6  # pixels; faces with boxes or points beyond are dropped


def preprocess(image: UInt8, size: int = DETECTION_SIZE) -> tuple[Float32, float]:
    """Convert a picture to the detector's input.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: S in pixels, a multiple of 32.

    Returns:
        (1, 3, S, S) float32 RGB, (x - 127.5) / 128: the picture scaled to fit, in the top left corner, and black
        elsewhere; and the scale, new height / height.

    Raises:
        ImageError: `image` has another shape or dtype.
    """
    assert size > 0
    assert size % _STRIDES[-1] == 0
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ImageError(f"a picture of shape {image.shape} and dtype {image.dtype}; expected (H, W, 3) uint8 RGB")
    height, width = image.shape[:2]
    if height > width:
        new_height, new_width = size, max(1, int(size / (height / width)))
    else:
        new_height, new_width = max(1, int(size * (height / width))), size
    canvas = np.zeros((size, size, 3), np.uint8)
    with _one_opencv_thread(), native_call():
        canvas[:new_height, :new_width] = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    blob = (canvas.astype(np.float32) - np.float32(127.5)) / np.float32(128)
    return np.ascontiguousarray(blob.transpose(2, 0, 1))[None], new_height / height


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Let OpenCV compute in the calling thread: for one picture, its pool of a thread per CPU brings no speed.

    The number is OpenCV's, for the whole process, so it is set back for other code.
    """
    with _OPENCV_THREADS:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield
        finally:
            cv2.setNumThreads(threads)


def postprocess(
    outputs: Sequence[NDArray[Any]],
    scale: float,
    size: int = DETECTION_SIZE,
    threshold: float = SCORE_THRESHOLD,
    overlap: float = OVERLAP_THRESHOLD,
) -> list[Face]:
    """Convert the detector's nine outputs to faces.

    Faces with a box or points that are not finite are dropped.

    Args:
        outputs: As in `Detector`.
        scale: The scale that `preprocess` returned.
        size: S in pixels, as passed to `preprocess`.
        threshold: Minimum score, 0 to 1.
        overlap: Maximum intersection over union of two boxes, 0 to 1; above it, the lower score is dropped.

    Returns:
        The faces in pixels of the picture, best score first.

    Raises:
        BackendError: The outputs are not those of an SCRFD network with keypoints.
    """
    _check_outputs(outputs, size)
    found = [_decode(outputs[level::3], stride, size, threshold) for level, stride in enumerate(_STRIDES)]
    scores, boxes, keypoints = (np.concatenate(parts) for parts in zip(*found, strict=True))
    boxes, keypoints = boxes / scale, keypoints / scale
    sane = (abs(boxes) < _FARTHEST).all(axis=1) & (abs(keypoints) < _FARTHEST).all(axis=(1, 2))
    # Of equal scores the later anchor comes first, as in the reversed sort of the public implementation.
    order = np.flatnonzero(sane)[np.argsort(scores[sane], kind="stable")[::-1]]
    kept = order[_suppress(boxes[order], overlap)]
    return [Face(boxes[i].astype(np.float32), float(scores[i]), keypoints[i].astype(np.float32)) for i in kept.tolist()]


def _check_outputs(outputs: Sequence[NDArray[Any]], size: int) -> None:
    cells = [_ANCHORS * (size // stride) ** 2 for stride in _STRIDES]
    expected = [(count, values) for values in (1, 4, 10) for count in cells]
    shapes = [np.shape(output) for output in outputs]
    if shapes != expected:
        raise BackendError(
            f"the face detector gave {len(shapes)} outputs of shapes {shapes}; expected nine, {expected}: "
            "the detector's file is not an SCRFD network with keypoints (such as det_10g.onnx): "
            f"build the bundle again {EXPORTER}"
        )


def _decode(
    outputs: Sequence[NDArray[Any]], stride: int, size: int, threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return scores (n,), boxes (n, 4) and keypoints (n, 5, 2) of one stride, in pixels of the network's input."""
    scores, boxes, keypoints = outputs
    likely = np.flatnonzero(scores[:, 0] >= threshold)
    cells = likely // _ANCHORS
    across = size // stride
    centre = np.stack([cells % across, cells // across], axis=1) * stride  # (n, 2), x then y
    with np.errstate(over="ignore", invalid="ignore"):  # from a damaged network; such faces are dropped later
        reach = boxes[likely].astype(np.float64) * stride  # left, top, right, bottom
        offsets = keypoints[likely].astype(np.float64).reshape(-1, 5, 2) * stride
        edges = np.concatenate([centre - reach[:, :2], centre + reach[:, 2:]], axis=1)
        return scores[likely, 0].astype(np.float64), edges, centre[:, None] + offsets


def _suppress(boxes: NDArray[np.float64], overlap: float) -> NDArray[np.int64]:
    """Return the indices of boxes (n, 4), best first, that do not overlap with a better box that is kept.

    Both edges of a box belong to it; therefore sides are one longer than the difference of the edges.
    """
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    areas = sides[:, 0] * sides[:, 1]
    kept, left = [], np.arange(len(boxes))
    while left.size:
        best, rest = left[0], left[1:]
        kept.append(best)
        shared = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2]) + 1
        both = np.maximum(shared, 0).prod(axis=1)
        # Multiplied out instead of divided, because the union can be zero for a box with its edges swapped.
        left = rest[both <= overlap * (areas[best] + areas[rest] - both)]
    return np.array(kept, np.int64)


def detect(run: Detector, image: UInt8, size: int = DETECTION_SIZE, threshold: float = SCORE_THRESHOLD) -> list[Face]:
    """Detect the faces in a picture.

    Args:
        run: The network, as in `Detector`.
        image: (H, W, 3) uint8 RGB.
        size: S in pixels, a multiple of 32.
        threshold: Minimum score, 0 to 1.

    Returns:
        The faces in pixels of the picture, best score first.

    Raises:
        ImageError: `image` has another shape or dtype.
        BackendError: The outputs are not those of an SCRFD network with keypoints.
    """
    blob, scale = preprocess(image, size)
    return postprocess(run(blob), scale, size, threshold)


def largest_face(faces: Sequence[Face]) -> Face:
    """Return the face with the largest box.

    Args:
        faces: The faces of a picture.

    Raises:
        NoFaceError: `faces` is empty.
    """
    if not faces:
        raise NoFaceError(
            "no face was found in the picture; expected one: take a picture that shows a face from the front and large "
            "enough, or give its keypoints (left eye, right eye, nose)"
        )
    return max(faces, key=lambda face: face.area)


def similar_faces_note(faces: Sequence[Face], where: str) -> tuple[str, ...]:
    """Return a note if the choice of the largest face is uncertain.

    Args:
        faces: All faces of a picture, at least one.
        where: The picture, for the note: "photo".

    Returns:
        One note that describes the chosen face if another face has a similar size; otherwise an empty tuple.
    """
    taken = largest_face(faces)
    others = sum(face.area >= _SIMILAR * taken.area for face in faces) - 1
    if others < 1:
        return ()
    left, top, right, bottom = (round(float(edge)) for edge in taken.box)
    similar = "another is" if others == 1 else f"{others} others are"
    return (
        f"{where}: the largest face was taken, {right - left} x {bottom - top} pixels (width x height) at "
        f"{(left + right) // 2}, {(top + bottom) // 2}; {similar} of similar size: give keypoints to choose the face",
    )
