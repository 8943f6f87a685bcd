"""Driving videos: containers, codecs, rotation, variable rate and size."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np

from tests.robustness.cases import Case
from tests.robustness.mutations import TOKENS, mutate
from tests.robustness.readers.sounds import written
from tests.robustness.shared import shared_cases

MOST_FRAMES = 300  # a caller reads only as much of a driving video as its own video needs
_PLANS = (
    ("mp4", ".mp4", "libx264", "yuv420p"), ("mov", ".mov", "mjpeg", "yuvj420p"), ("mov", ".mov", "prores_ks",
    "yuv422p10le"),
    ("mp4", ".mp4", "libx265", "yuv420p"), ("mp4", ".mp4", "libsvtav1", "yuv420p"), ("mp4", ".mp4", "mpeg4", "yuv420p"),
    ("matroska", ".mkv", "libx264", "yuv444p"), ("matroska", ".mkv", "ffv1", "yuv420p"), ("matroska", ".mkv",
    "libvpx-vp9", "yuva420p"),
    ("webm", ".webm", "libvpx", "yuv420p"), ("webm", ".webm", "libvpx-vp9", "yuv420p"), ("avi", ".avi", "mpeg4",
    "yuv420p"),
    ("avi", ".avi", "mjpeg", "yuvj420p"), ("avi", ".avi", "rawvideo", "bgr24"), ("avi", ".avi", "huffyuv", "yuv422p"),
    ("flv", ".flv", "flv", "yuv420p"), ("flv", ".flv", "libx264", "yuv420p"), ("mpegts", ".ts", "libx264", "yuv420p"),
    ("mpegts", ".ts", "mpeg2video", "yuv420p"), ("mpeg", ".mpg", "mpeg1video", "yuv420p"), ("vob", ".vob",
    "mpeg2video", "yuv420p"),
    ("asf", ".wmv", "wmv2", "yuv420p"), ("ogg", ".ogv", "libx264", "yuv420p"), ("mxf", ".mxf", "mpeg2video", "yuv422p"),
    ("3gp", ".3gp", "h263", "yuv420p"), ("mov", ".mov", "qtrle", "rgb24"), ("mov", ".mov", "png", "rgba"), ("mov",
    ".mov", "dnxhd", "yuv422p"),
)  # fmt: skip
_TOKENS = (
    *TOKENS, b"ffconcat version 1.0\nfile ../canary/secret.mp4\n", b"\0\0\0\x01\x67\x42\0\x1e", b"\0\0\x01\xb3",
    b"\0\0\0\x0cdref\0\0\0\0", b"\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x40\x00\x00\x00",
)  # fmt: skip


class Videos:
    """Opens the video and reads frames as the face tracker does."""

    memory = 0
    noisy: tuple[bytes, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def seeds(self) -> Sequence[Case]:
        found = []
        for kind, suffix, codec, pixels in _PLANS:
            try:
                found.append(Case(suffix, filmed(kind, codec, pixels)))
            except (av.FFmpegError, ValueError):  # a build without the encoder, a container that refuses the codec
                continue
        assert len(found) > len(_PLANS) // 2
        found.append(Case(".mp4", _joined(_rotated(filmed("mp4", "libx264", "yuv420p")))))
        sound = Case(".m4a", written("mp4", ".m4a", "aac", 44100, "mono"))
        return [*found, sound, *shared_cases({case.suffix for case in found})]

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        seed = chance.choice(seeds)
        same = chance.random() < 0.7
        kin = [other.content for other in seeds if not same or other.suffix == seed.suffix]
        return Case(seed.suffix, mutate(chance, seed.content, kin, _TOKENS))

    def read(self, path: Path) -> None:
        from vexpress_rt.config import MAX_FPS, MIN_FPS
        from vexpress_rt.media.video_reader import read_frames

        video = read_frames(path)
        assert MIN_FPS <= video.fps <= MAX_FPS
        for frame in islice(video.frames(), MOST_FRAMES):
            assert frame.dtype == np.uint8
            assert frame.shape == (*video.size, 3)


def filmed(kind: str, codec: str, pixels: str, size: tuple[int, int] = (64, 48), count: int = 12) -> bytes:
    """Return a video of `count` pictures of a moving square; `size` is (width, height)."""
    if codec == "h263":
        size = (128, 96)
    if codec == "dnxhd":
        size, count = (1280, 720), 2
    stream, rate = io.BytesIO(), 30 if codec == "dnxhd" else 25
    with av.open(stream, "w", format=kind, container_options={"fflags": "+bitexact"}) as container:
        track = container.add_stream(codec, rate=rate, options={"flags": "+bitexact", "threads": "1"})
        track.width, track.height, track.pix_fmt = *size, pixels
        track.thread_count = 1
        if codec == "dnxhd":
            track.bit_rate = 75_000_000
        for index in range(count):
            picture = np.full((size[1], size[0], 3), 40, np.uint8)
            picture[8 + index : 24 + index, 8 + 2 * index : 24 + 2 * index] = (200, 30, 90)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


def _rotated(data: bytes) -> bytes:
    """Return the video with a quarter turn in the track's matrix."""
    at = data.find(b"tkhd") + 4 + 40
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))
    return data[:at] + matrix + data[at + 36 :]


def _joined(data: bytes) -> bytes:
    return data + b"\0\0\0\x10free" + bytes(8)
