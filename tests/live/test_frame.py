"""Frames of a session as bytes and 16-bit samples."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from vexpress_rt.live.frame import LiveFrame


def test_pushed_int16_comes_back_exactly_and_louder_sound_is_clipped() -> None:
    every = np.arange(-(1 << 15), 1 << 15).astype(np.int16)
    read = every.astype(np.float32) / np.float32(32768)
    found = _frame(samples=read).samples_int16
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, every)
    loud = _frame(samples=np.array([1.0, 7.5, -7.5, 0.4 / 32768], np.float32))
    assert loud.samples_int16.tolist() == [32767, 32767, -32768, 0]


def test_image_bytes_are_rgb24_in_rows_also_of_a_view() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert _frame(image=image).image_bytes == bytes(range(18))
    assert _frame(image=image[:, ::-1]).image_bytes == image[:, ::-1].copy().tobytes()


def _frame(image: np.ndarray | None = None, samples: np.ndarray | None = None) -> LiveFrame:
    image = np.zeros((2, 2, 3), np.uint8) if image is None else image
    return LiveFrame(image, 0, Fraction(0), np.zeros(4, np.float32) if samples is None else samples)
