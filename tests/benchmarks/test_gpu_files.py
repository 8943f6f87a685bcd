"""A video file against its frames: the loss by H.264 is accepted, wrong colours and misplaced frames are faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.files import MOST_LOST, compare_file, fault, read_nv12
from vexpress_rt.config import GenerationConfig
from vexpress_rt.media.video_writer import VideoWriter
from vexpress_rt.native import median_filter
from vexpress_rt.native.nv12 import rgb_to_nv12_numpy
from vexpress_rt.types import UInt8, Video

FPS = Fraction(30)
CONFIG = GenerationConfig()


@pytest.fixture(scope="module")
def kept() -> Video:
    """Six pictures of 64 x 96 pixels, as busy as those of synthetic weights."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 16, 24, 3), np.uint8)
    frames = median_filter(noise.repeat(4, axis=1).repeat(4, axis=2))
    return Video(frames=frames, fps=FPS, length=6, keypoints=np.zeros((6, 3, 2), np.float32), path=None, timings={})


def write(path: Path, pictures: Iterable[UInt8]) -> Path:
    with VideoWriter(path, (64, 96), FPS, None, CONFIG.quality) as writer:
        for picture in pictures:
            writer.write(picture)
    return path


def frames_of(video: Video) -> UInt8:
    assert video.frames is not None
    return video.frames


@pytest.mark.parametrize("convert", [lambda frame: frame, rgb_to_nv12_numpy], ids=["rgb", "nv12"])
def test_a_file_of_the_frames_has_no_fault(kept: Video, tmp_path: Path, convert: Callable[[UInt8], UInt8]) -> None:
    found = compare_file(write(tmp_path / "a.mp4", map(convert, frames_of(kept))), kept, CONFIG)
    assert fault(found) == ""
    assert 30 < found["psnr_by_host"] < 50
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def swapped(picture: UInt8) -> UInt8:
    return np.concatenate([picture[:64], picture[64:].reshape(32, -1, 2)[..., ::-1].reshape(32, -1)])


def chroma_by_a_column(picture: UInt8) -> UInt8:
    return np.concatenate([picture[:64], np.roll(picture[64:], 2, axis=1)])


def luma_by_a_row(picture: UInt8) -> UInt8:
    return np.concatenate([np.roll(picture[:64], 1, axis=0), picture[64:]])


def full_range(picture: UInt8) -> UInt8:
    luma = ((picture[:64].astype(np.float32) - 16) * 255 / 219).clip(0, 255).astype(np.uint8)
    return np.concatenate([luma, picture[64:]])


@pytest.mark.parametrize("spoil", [swapped, chroma_by_a_column, luma_by_a_row, full_range])
def test_wrong_colours_are_a_fault(kept: Video, tmp_path: Path, spoil: Callable[[UInt8], UInt8]) -> None:
    pictures = (spoil(rgb_to_nv12_numpy(frame)) for frame in frames_of(kept))
    found = compare_file(write(tmp_path / "a.mp4", pictures), kept, CONFIG)
    assert found["psnr"] < found["psnr_by_host"] - 2 * MOST_LOST
    assert f"expected at least {found['psnr_by_host'] - MOST_LOST:.1f}" in fault(found)


def test_frames_in_another_order_are_a_fault(kept: Video, tmp_path: Path) -> None:
    found = compare_file(write(tmp_path / "a.mp4", frames_of(kept)[::-1]), kept, CONFIG)
    assert fault(found)


def test_a_file_with_a_frame_less_is_refused(kept: Video, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected uint8 of one shape"):
        compare_file(write(tmp_path / "a.mp4", frames_of(kept)[1:]), kept, CONFIG)


def test_pictures_are_read_as_they_were_encoded(tmp_path: Path) -> None:
    given = np.random.default_rng(0).integers(0, 256, (3, 96, 96), np.uint8)
    with VideoWriter(tmp_path / "a.mp4", (64, 96), FPS, None, quality=0) as writer:
        for picture in given:
            writer.write(picture)
    np.testing.assert_array_equal(read_nv12(tmp_path / "a.mp4"), given)
