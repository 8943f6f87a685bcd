"""Weighted sums of features: the reference implementation, and the CUDA kernel compiled for the CPU."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.kernel_cases import (
    HostArena,
    assert_same_bits,
    check_weighted_sum,
    host_kernels,
    rounded_to_bfloat16,
    run_weighted_sum,
    widened,
)
from vexpress_rt.errors import InputError
from vexpress_rt.native.device_kernels import Kernels
from vexpress_rt.native.weighted_sum import weighted_sum_numpy

SEEDS = st.integers(0, 2**32)
ARENA = HostArena()


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return host_kernels()


def test_the_sum_is_computed_in_float32_and_rounded_once() -> None:
    one, tiny = np.array([1.0], np.float16), np.array([2**-11], np.float16)
    assert weighted_sum_numpy([one, tiny], [1.0, 3.0]) == np.float16(1 + 2**-9)  # the tie 3 * 2**-11 is rounded up
    assert weighted_sum_numpy([one, tiny], [1.0, 1.0]) == 1  # a tie, to even
    assert weighted_sum_numpy([one], [0.1]).dtype == np.float16


def test_sums_beyond_the_range_are_infinite_or_nan_without_a_warning() -> None:
    large = np.array([3e38], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert weighted_sum_numpy([large, large], [1.0, 10.0]) == np.inf
        assert np.isnan(weighted_sum_numpy([large, -large], [10.0, 10.0]))


@given(frames=st.integers(1, 5), values=st.integers(1, 40), seed=SEEDS, count=st.integers(1, 2))
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_kernel_gives_what_numpy_gives_bit_for_bit(
    kernels: Kernels, dtype: str, frames: int, values: int, seed: int, count: int
) -> None:
    check_weighted_sum(kernels, ARENA, dtype=dtype, frames=frames, values=values, count=count, seed=seed)


def test_every_float16_is_read_and_written_as_numpy_does(kernels: Kernels) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)[None]
    found = run_weighted_sum(kernels, ARENA, [every], [1.0], "float16")
    nan = np.isnan(every)
    assert_same_bits(found[~nan], every[~nan])
    assert np.isnan(found[nan]).all()
    with np.errstate(over="ignore"):
        expected = (every[~nan].astype(np.float32) * np.float32(1.1)).astype(np.float16)
    assert_same_bits(run_weighted_sum(kernels, ARENA, [every], [1.1], "float16")[~nan], expected)


@pytest.mark.parametrize("weight", [1.0, 1.1, 0.37, 1.001953125])  # the last one gives ties
def test_every_bfloat16_is_read_and_written_as_its_definition_says(kernels: Kernels, weight: float) -> None:
    stored = np.arange(1 << 16, dtype=np.uint16)[None]
    with np.errstate(over="ignore", invalid="ignore"):
        product = widened(stored) * np.float32(weight)
    found = run_weighted_sum(kernels, ARENA, [stored], [weight], "bfloat16")
    normal = np.abs(product) < 3e38
    assert_same_bits(found[normal], rounded_to_bfloat16(product[normal]))
    assert np.isnan(widened(found[np.isnan(product)])).all()
    assert (found[np.isinf(product)] & 0x7FFF == 0x7F80).all()


def test_weights_that_do_not_fit_the_features_are_refused(kernels: Kernels) -> None:
    with pytest.raises(InputError, match=r"weights are \[1.0, 2.0\]; expected one for each of the 1 features"):
        run_weighted_sum(kernels, ARENA, [np.zeros((1, 2), np.float32)], [1.0, 2.0], "float32")
    with pytest.raises(InputError, match=r"first is 8 bytes .* at least 16 bytes"):
        kernels.weighted_sum(
            ARENA.put(np.zeros(2, np.float32)), None, ARENA.put(np.zeros(4, np.float32)), rows=2, values=2,
            weights=[1.0], dtype="float32", stream=ARENA.stream,
        )  # fmt: skip
