"""The reference implementations of guidance and the sampler step in NumPy."""

from __future__ import annotations

import numpy as np

from vexpress_rt.native.latent_step import Correction, SlotUpdate, check_updates, correct_predictions_numpy


def test_a_correction_subtracts_the_error_of_the_known_prediction() -> None:
    conditional = np.array([[1.0, 2.0], [3.0, 5.0], [7.0, 9.0]], np.float32)
    correction = Correction(1, np.array([2.0, 1.0], np.float32), np.array([1.0, 1.0, 0.5], np.float32))
    found = correct_predictions_numpy(None, conditional, 1.0, correction)
    np.testing.assert_array_equal(found, [[0, -2], [2, 1], [6.5, 7]])
    unconditional = np.zeros_like(conditional)
    found = correct_predictions_numpy(unconditional, conditional, 2.0, correction)
    np.testing.assert_array_equal(found, [[-2, -5], [2, 1], [12, 13.5]])


def test_updates_become_a_table() -> None:
    table = check_updates([SlotUpdate(4, 0, 2), SlotUpdate(1, 1, 3)], slots=5)
    assert table.dtype == np.int32
    assert table.tolist() == [[4, 0, 2], [1, 1, 3]]
