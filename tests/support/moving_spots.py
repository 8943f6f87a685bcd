"""Small videos of a red spot that moves to the right, in many containers, and a detector of the spot."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vexpress_rt.types import Face

SIZE = (64, 96)
SPEED = 1.2  # pixels a frame period
_POINTS = np.array([[-8, -4], [8, -4], [0, 6], [-5, 12], [5, 12]], np.float32)
_TICKS = 90_000  # a second


def place(time: float) -> float:
    """x of the spot, `time` in frame periods after the first frame."""
    return 12 + SPEED * time


def spot(x: float, y: float | None = None, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A dark picture with a red spot of 12 pixels at (x, y)."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    picture = np.full((*size, 3), 40, np.uint8)
    picture[np.hypot(columns - x, rows - (size[0] / 2 if y is None else y)) < 6] = (230, 30, 30)
    return picture


def write(
    path: Path,
    times: Sequence[float | Fraction],
    *,
    fps: int | Fraction = 30,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pictures: Sequence[np.ndarray] | None = None,
    aspect: Fraction | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """A video whose frame k is shown at times[k], in periods of `fps`, and shows the spot where it is then."""
    chosen = [spot(place(float(time))) for time in times] if pictures is None else pictures
    base = Fraction(1, _TICKS)
    with av.open(str(path), "w") as container:
        fast = {"deadline": "realtime", "cpu-used": "8"} if codec.startswith("libvpx") else {}
        stream = container.add_stream(codec, rate=fps, options={**fast, **(options or {})})
        stream.height, stream.width = chosen[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if codec in ("libx264", "libvpx", "libvpx-vp9") and path.suffix != ".avi":  # AVI counts frames
            stream.codec_context.time_base = base
        else:
            base = 1 / Fraction(fps)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for time, picture in zip(times, chosen, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = round(Fraction(time) / Fraction(fps) / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def find_spot(picture: np.ndarray) -> list[Face]:
    """A face around the red spot; none where nothing is red."""
    rows, columns = np.nonzero(picture[..., 0].astype(int) - picture[..., 1] > 100)
    if not len(rows):
        return []
    centre = np.array([columns.mean(), rows.mean()], np.float32)
    return [Face(np.array([*centre - 15, *centre + 15], np.float32), 0.9, _POINTS + centre)]


class Searches:
    """Counts how often pictures are searched for the spot."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, picture: np.ndarray) -> list[Face]:
        self.count += 1
        return find_spot(picture)


def spot_x(points: np.ndarray) -> np.ndarray:
    """x of the spot in each frame of a track's points (K, 3, 2)."""
    return points[:, :2, 0].mean(axis=1)
