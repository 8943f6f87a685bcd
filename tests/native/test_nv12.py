"""The conversion of RGB to NV12 in NumPy: BT.709 in limited range, chroma on even columns."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexpress_rt.errors import InputError
from vexpress_rt.media.video_writer import VideoWriter
from vexpress_rt.native.nv12 import rgb_to_nv12_numpy


def bt709(rgb: np.ndarray) -> tuple[float, float, float]:
    """Y, Cb, Cr in limited range, ITU-R BT.709-6, items 3.2 to 3.5."""
    red, green, blue = (rgb / 255).tolist()
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return 16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748


@given(rgb=st.tuples(*[st.integers(0, 255)] * 3))
def test_plain_colours_become_the_nearest_values_of_the_bt709_matrix(rgb: tuple[int, int, int]) -> None:
    picture = np.full((4, 6, 3), rgb, np.uint8)
    converted = rgb_to_nv12_numpy(picture)
    luma, blue, red = bt709(picture[0, 0])
    np.testing.assert_allclose(converted[:4], luma, atol=0.5 + 1e-9)
    np.testing.assert_allclose(converted[4:, 0::2], blue, atol=0.5 + 1e-9)
    np.testing.assert_allclose(converted[4:, 1::2], red, atol=0.5 + 1e-9)


def test_black_and_white_use_the_limited_range_exactly() -> None:
    for level, luma in ((0, 16), (255, 235)):
        converted = rgb_to_nv12_numpy(np.full((2, 2, 3), level, np.uint8))
        np.testing.assert_array_equal(converted, [[luma, luma], [luma, luma], [128, 128]])


def test_chroma_lies_on_even_columns_and_between_rows() -> None:
    slope = 224 * (1 - 0.0722) / 1.8556 / 255
    ramp = np.zeros((64, 128, 3), np.uint8)
    ramp[..., 2] = np.arange(128)
    across = (rgb_to_nv12_numpy(ramp)[64:, 0::2].astype(float) - 128) / slope
    np.testing.assert_allclose(across[:, 1:], np.broadcast_to(2 * np.arange(1, 64), (32, 63)), atol=0.5 / slope)
    ramp[..., 2] = np.arange(64)[:, None]
    down = (rgb_to_nv12_numpy(ramp)[64:, 0::2].astype(float) - 128) / slope
    np.testing.assert_allclose(down, np.broadcast_to(2 * np.arange(32)[:, None] + 0.5, (32, 64)), atol=0.5 / slope)


def test_smooth_pictures_come_out_as_the_video_writer_has_them(tmp_path: Path) -> None:
    row, column = np.mgrid[0:64, 0:96]
    waves = [np.sin(row / 15 + column / 17), np.cos(row / 19 - column / 13), np.sin(column / 23)]
    picture = (127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
    path = tmp_path / "a.mp4"
    with VideoWriter(path, (64, 96), Fraction(30), None, quality=0) as writer:
        writer.write(picture)
    with av.open(str(path)) as container:
        written = next(container.decode(video=0)).reformat(format="nv12").to_ndarray()
    difference = np.abs(rgb_to_nv12_numpy(picture).astype(int) - written)
    assert difference[:64].max() <= 1  # FFmpeg's luma is rounded less exactly
    assert difference[64:].max() <= 2
    assert difference.mean() < 0.2


def test_nv12_reference_refuses_odd_sizes_and_other_dtypes() -> None:
    with pytest.raises(InputError, match="3 x 4 pixels"):
        rgb_to_nv12_numpy(np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(InputError, match="float32"):
        rgb_to_nv12_numpy(np.zeros((4, 4, 3), np.float32))  # type: ignore[arg-type]
