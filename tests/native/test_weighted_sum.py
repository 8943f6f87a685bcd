"""Weighted sums of features: the reference implementation, and the CUDA kernel compiled for the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.kernel_cases import HostArena, assert_same_bits, host_kernels
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


@given(frames=st.integers(1, 5), values=st.integers(1, 40), seed=SEEDS, both=st.booleans())
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weighted_sum_gives_what_numpy_gives_bit_for_bit(
    kernels: Kernels, dtype: type, frames: int, values: int, seed: int, both: bool
) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((2, frames, values)) * 10.0 ** rng.integers(-9, 6, (2, frames, values))
    with np.errstate(over="ignore"):
        features = list(numbers.astype(dtype))[: 1 + both]
    weights = rng.uniform(0, 10, 1 + both).tolist()
    with np.errstate(invalid="ignore"):
        expected = weighted_sum_numpy(features, weights)
    found = run_sum(kernels, features, weights, np.dtype(dtype).name)
    finite = ~np.isnan(expected)
    assert_same_bits(found[finite], expected[finite])
    assert np.isnan(found[~finite]).all()


def run_sum(kernels: Kernels, features: list[np.ndarray], weights: list[float], dtype: str) -> np.ndarray:
    first, *second = (ARENA.put(feature) for feature in features)
    out = ARENA.put(np.zeros_like(features[0]))
    rows, values = features[0].shape
    kernels.weighted_sum(
        first, second[0] if second else None, out, rows=rows, values=values, weights=weights, dtype=dtype,
        stream=ARENA.stream,
    )  # fmt: skip
    return ARENA.get(out, features[0])


def test_every_float16_is_read_and_written_as_numpy_does(kernels: Kernels) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)[None]
    found = run_sum(kernels, [every], [1.0], "float16")
    nan = np.isnan(every)
    assert_same_bits(found[~nan], every[~nan])
    assert np.isnan(found[nan]).all()
    with np.errstate(over="ignore"):
        expected = (every[~nan].astype(np.float32) * np.float32(1.1)).astype(np.float16)
    assert_same_bits(run_sum(kernels, [every], [1.1], "float16")[~nan], expected)


def test_weighted_sum_rounds_bfloat16_to_the_nearest_and_ties_to_even(kernels: Kernels) -> None:
    stored = np.arange(1 << 16, dtype=np.uint16)[None]
    values = (stored.astype(np.uint32) << 16).view(np.float32)
    for weight in (1.0, 1.1, 0.37, 1.001953125):  # the last one gives ties
        with np.errstate(over="ignore", invalid="ignore"):
            product = values * np.float32(weight)
            below = product.view(np.uint32) >> 16  # towards zero
            low, high = ((number << 16).view(np.float32).astype(np.float64) for number in (below, below + 1))
            up, down = np.abs(high - product), np.abs(product - low)
        nearest = np.where((up < down) | ((up == down) & (below % 2 == 1)), below + 1, below).astype(np.uint16)
        found, normal = run_sum(kernels, [stored], [weight], "bfloat16"), np.abs(product) < 3e38
        assert_same_bits(found[normal], nearest[normal])
        assert np.isnan((found[np.isnan(product)].astype(np.uint32) << 16).view(np.float32)).all()
        assert (found[np.isinf(product)] & 0x7FFF == 0x7F80).all()


def test_weights_that_do_not_fit_the_features_are_refused(kernels: Kernels) -> None:
    with pytest.raises(InputError, match=r"weights are \[1.0, 2.0\]; expected one for each of the 1 features"):
        run_sum(kernels, [np.zeros((1, 2), np.float32)], [1.0, 2.0], "float32")
    with pytest.raises(InputError, match=r"first is 8 bytes .* at least 16 bytes"):
        kernels.weighted_sum(
            ARENA.put(np.zeros(2, np.float32)), None, ARENA.put(np.zeros(4, np.float32)), rows=2, values=2,
            weights=[1.0], dtype="float32", stream=ARENA.stream,
        )  # fmt: skip
