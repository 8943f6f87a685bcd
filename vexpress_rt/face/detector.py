"""Faces: what goes before and after the SCRFD detector, and how faces of many frames become one track.

Spec: model.md, "Face detector". Detector: Guo et al., "Sample and Computation Redistribution for Efficient Face
Detection", arXiv 2105.04714. Nothing here runs an engine: it is passed in as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import BackendError, ImageError, NoFaceError
from vexpress_rt.types import Face, Float32, KeypointTrack, UInt8, name_frames
from vexpress_rt.utils.shutdown import native_call

# (1, 3, S, S) float32 -> nine arrays: scores (N, 1), then boxes (N, 4), then keypoints (N, 10), for each of _STRIDES
Detector = Callable[[Float32], Sequence[NDArray[Any]]]

DETECTION_SIZE = 512  # S; upstream's
SCORE_THRESHOLD = 0.5
OVERLAP_THRESHOLD = 0.4
LONGEST_GAP = Fraction(1, 2)  # seconds without a face that are bridged
_SIMILAR = 0.5  # share of the largest face's area from which another face may be the intended one

_STRIDES = (8, 16, 32)
_ANCHORS = 2  # a cell
_FARTHEST = 1e6  # pixels; no face is there, whatever the detector says


def preprocess(image: UInt8, size: int = DETECTION_SIZE) -> tuple[Float32, float]:
    """Make the detector's input of a picture.

    image: (H, W, 3) uint8 RGB.  size: S, a multiple of 32.
    Returns (1, 3, S, S) float32 RGB, (x - 127.5) / 128, the picture scaled to fit into the top left and black
    elsewhere; and the scale, new height / height. Raises ImageError for another shape or dtype.
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
    with native_call():
        canvas[:new_height, :new_width] = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    blob = (canvas.astype(np.float32) - np.float32(127.5)) / np.float32(128)
    return np.ascontiguousarray(blob.transpose(2, 0, 1))[None], new_height / height


def postprocess(
    outputs: Sequence[NDArray[Any]],
    scale: float,
    size: int = DETECTION_SIZE,
    threshold: float = SCORE_THRESHOLD,
    overlap: float = OVERLAP_THRESHOLD,
) -> list[Face]:
    """Make faces of the detector's nine outputs, best score first, in pixels of the picture.

    outputs: see `Detector`.  scale, size: as given by and to `preprocess`.  threshold: least score.
    overlap: of two faces whose boxes' intersection over union is above, the one with the lower score is dropped.
    Boxes and points that are not finite are dropped. Raises BackendError if the outputs are not SCRFD's.
    """
    _check_outputs(outputs, size)
    found = [_decode(outputs[level::3], stride, size, threshold) for level, stride in enumerate(_STRIDES)]
    scores, boxes, keypoints = (np.concatenate(parts) for parts in zip(*found, strict=True))
    boxes, keypoints = boxes / scale, keypoints / scale
    sane = (abs(boxes) < _FARTHEST).all(axis=1) & (abs(keypoints) < _FARTHEST).all(axis=(1, 2))
    # Of equal scores the later anchor comes first, as in upstream's reversed sort.
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
            "the detector's file is not an SCRFD network with keypoints (such as det_10g.onnx): rebuild the bundle"
        )


def _decode(
    outputs: Sequence[NDArray[Any]], stride: int, size: int, threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Scores (n,), boxes (n, 4) and keypoints (n, 5, 2) of one stride, in pixels of the network's input."""
    scores, boxes, keypoints = outputs
    likely = np.flatnonzero(scores[:, 0] >= threshold)
    cells = likely // _ANCHORS
    across = size // stride
    centre = np.stack([cells % across, cells // across], axis=1) * stride  # (n, 2), x then y
    with np.errstate(over="ignore", invalid="ignore"):  # of a damaged network; dropped later
        reach = boxes[likely].astype(np.float64) * stride  # left, top, right, bottom
        offsets = keypoints[likely].astype(np.float64).reshape(-1, 5, 2) * stride
        edges = np.concatenate([centre - reach[:, :2], centre + reach[:, 2:]], axis=1)
        return scores[likely, 0].astype(np.float64), edges, centre[:, None] + offsets


def _suppress(boxes: NDArray[np.float64], overlap: float) -> NDArray[np.int64]:
    """Indices of the boxes (n, 4), best first, that no better kept box overlaps; a pixel counts at both its edges."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    areas = sides[:, 0] * sides[:, 1]
    kept, left = [], np.arange(len(boxes))
    while left.size:
        best, rest = left[0], left[1:]
        kept.append(best)
        shared = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2]) + 1
        both = np.maximum(shared, 0).prod(axis=1)
        # Multiplied out, since a box that is inside out may make the union zero.
        left = rest[both <= overlap * (areas[best] + areas[rest] - both)]
    return np.array(kept, np.int64)


def detect(run: Detector, image: UInt8, size: int = DETECTION_SIZE, threshold: float = SCORE_THRESHOLD) -> list[Face]:
    """Find the faces in a picture, best score first; an empty list if there is none.

    run: the detector, see `Detector`.  image: (H, W, 3) uint8 RGB.  size: S, a multiple of 32.
    Raises ImageError and BackendError as `preprocess` and `postprocess` do.
    """
    blob, scale = preprocess(image, size)
    return postprocess(run(blob), scale, size, threshold)


def largest_face(faces: Sequence[Face]) -> Face:
    """The face with the largest box. Raises NoFaceError if there is none."""
    if not faces:
        raise NoFaceError(
            "no face was found in the picture; expected one: take a picture that shows a face from the front and large "
            "enough, or give its keypoints (left eye, right eye, nose)"
        )
    return max(faces, key=lambda face: face.area)


def rivals_note(faces: Sequence[Face], where: str) -> tuple[str, ...]:
    """Return a note if the choice of the largest face is uncertain.

    Args:
        faces: All faces of a picture, at least one.
        where: The picture, for the note: "photo".

    Returns:
        One note that names the chosen face if another face has a similar size; otherwise none.
    """
    taken = largest_face(faces)
    rivals = sum(face.area >= _SIMILAR * taken.area for face in faces) - 1
    if rivals < 1:
        return ()
    left, top, right, bottom = (round(float(edge)) for edge in taken.box)
    others = "another is" if rivals == 1 else f"{rivals} others are"
    return (
        f"{where}: the largest face was taken, {right - left} x {bottom - top} pixels (width x height) at "
        f"{(left + right) // 2}, {(top + bottom) // 2}; {others} of similar size: give keypoints to choose the face",
    )


def track_faces(
    found: Iterable[Sequence[Face]], fps: Fraction, size: tuple[int, int], needed: int | None = None
) -> KeypointTrack:
    """Follow one face through a driving video.

    found: for each frame the faces in it.  fps: frames a second of the video.
    size: (height, width) in pixels of the frames.
    needed: how many frames will be used; None for all. Gaps that begin later are not looked at.
    The largest face of the first frame that has one is followed: in each later frame the face nearest to where it was
    last seen. A note says so where another is of similar size there. Frames without a face are interpolated linearly,
    or hold the nearest seen at the ends, over at most half a second. Raises NoFaceError naming the frames of every
    longer gap, or if there is no face at all.
    """
    seen: list[int] = []
    points: list[NDArray[np.float64]] = []
    count = 0
    last: Face | None = None
    notes: tuple[str, ...] = ()
    for frame, faces in enumerate(found):
        count = frame + 1
        if faces:
            if last is None:
                notes = rivals_note(faces, "driving video")
            last = largest_face(faces) if last is None else _nearest(faces, last)
            seen.append(frame)
            points.append(last.keypoints[:3].astype(np.float64))
    if not seen:
        raise NoFaceError(
            f"no face was found in any of the driving video's {count} frames of {size[1]} x {size[0]} pixels (width x "
            f"height), searched scaled to {DETECTION_SIZE}; expected one in nearly every frame: take a video that is "
            "upright and shows a face from the front, crop it closer around the face, or give keypoints from a file"
        )
    _check_gaps(seen, count, fps, count if needed is None else needed)
    columns = np.stack(points).reshape(-1, 6).T
    filled = np.stack([np.interp(np.arange(count), seen, column) for column in columns], axis=1)
    return KeypointTrack(filled.reshape(count, 3, 2).astype(np.float32), fps, size, notes)


def _nearest(faces: Sequence[Face], last: Face) -> Face:
    def distance(face: Face) -> float:
        return float(np.linalg.norm(face.keypoints - last.keypoints, axis=1).mean())

    return min(faces, key=distance)


def _check_gaps(seen: list[int], count: int, fps: Fraction, needed: int) -> None:
    edges = [-1, *seen, count]
    gaps = [(a + 1, b) for a, b in pairwise(edges) if b - a - 1 > LONGEST_GAP * fps and a + 1 < needed]
    if gaps:
        lost = np.concatenate([np.arange(start, stop) for start, stop in gaps])
        raise NoFaceError(
            f"no face was found for longer than half a second in frames {name_frames(lost)} of the driving video's "
            f"{count} (counted from 0, at {float(fps):g} a second); expected gaps of at most {int(LONGEST_GAP * fps)} "
            "frames: cut these frames out, crop the video closer around the face, or give keypoints from a file"
        )
