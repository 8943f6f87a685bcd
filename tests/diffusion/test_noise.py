"""Noise: reproducible by seed and frame, standard normal, and torch's when asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.support.paths import GOLDEN
from vexpress_rt.diffusion import noise
from vexpress_rt.diffusion.noise import choose_noise, frame_noise, torch_randn
from vexpress_rt.errors import ConfigError, InputError

VALUES = np.load(GOLDEN / "scheduler.npz")
SEEDS = st.integers(0, 2**64 - 1)


def philox_4x64(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    """Compute Philox 4x64-10 in plain integers, as in its paper."""
    mask = 2**64 - 1
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & mask, (p0 >> 64) ^ c3 ^ k1, p0 & mask
        k0, k1 = k0 + 0x9E3779B97F4A7C15 & mask, k1 + 0xBB67AE8584CAA73B & mask
    return [c0, c1, c2, c3]


@given(SEEDS, st.integers(0, 2**64 - 1), st.integers(1, 9))
def test_frame_noise_is_box_muller_on_philox_counters(seed: int, frame: int, size: int) -> None:
    words = [w for block in range(1, 4) for w in philox_4x64((seed, 0), (block, frame, 0, 0))]
    expected = []
    for first, second in zip(words[::2], words[1::2], strict=True):
        radius = math.sqrt(-2 * math.log(((first >> 11) + 1) / 2**53))
        theta = 2 * math.pi * (second >> 11) / 2**53
        expected += [radius * math.cos(theta), radius * math.sin(theta)]
    np.testing.assert_allclose(frame_noise(seed, frame, (size,)), expected[:size], rtol=1e-6, atol=1e-12)


def test_frame_noise_has_known_values() -> None:
    known = [-0.43525201, 1.18591189, 1.05958176, 0.23788646]
    assert frame_noise(42, 7, (2, 2)).ravel().tolist() == pytest.approx(known, abs=1e-7)


@given(SEEDS, st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40))
def test_an_element_depends_on_seed_frame_and_its_index_alone(seed: int, frame: int, fewer: int, more: int) -> None:
    fewer, more = sorted((fewer, more))
    assert np.array_equal(frame_noise(seed, frame, (more,))[:fewer], frame_noise(seed, frame, (fewer,)))


def video_noise(seed: int, length: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the noise of frames 0 to length - 1."""
    return np.stack([frame_noise(seed, frame, shape) for frame in range(length)])


def test_frames_and_seeds_are_independent_standard_normals() -> None:
    samples = video_noise(1, 50, (4, 16, 16)).reshape(50, -1)
    assert stats.kstest(samples.ravel(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(np.vstack([samples, video_noise(2, 50, (4, 16, 16)).reshape(50, -1)]))
    assert np.abs(correlation - np.eye(100)).max() < 5 / math.sqrt(samples.shape[1])


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_outside_64_bits_are_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match=f"seed is {seed}"):
        frame_noise(seed, 0, (1,))
    with pytest.raises(ConfigError, match=f"seed is {seed}"):
        torch_randn(seed, (1,))


def test_negative_frames_are_refused() -> None:
    with pytest.raises(ConfigError, match="frame is -1"):
        frame_noise(0, -1, (1,))


GOLDEN_SAMPLES = [key for key in VALUES.files if key.startswith("torch_randn/")]


def test_there_are_golden_torch_samples() -> None:
    assert len(GOLDEN_SAMPLES) == 5


@pytest.mark.parametrize("key", GOLDEN_SAMPLES)
def test_torch_randn_is_the_golden_sample(key: str) -> None:
    _, seed, shape, skip = key.split("/")
    ours = torch_randn(int(seed), tuple(map(int, shape.split("x"))), int(skip.removeprefix("skip")))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, VALUES[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ["tiny_square", "tiny_wide"])
def test_torch_randn_after_two_words_is_the_latent_that_upstream_began_with(case: str) -> None:
    golden = np.load(GOLDEN / f"{case}.npz")["noise"]
    np.testing.assert_allclose(torch_randn(42, golden.shape, skip=2), golden, rtol=0, atol=1e-6)


@given(SEEDS, st.lists(st.integers(1, 12), max_size=4), st.integers(0, 30))
def test_torch_randn_is_torchs_own(seed: int, shape: list[int], skip: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(skip):
        torch.rand([], generator=generator)
    expected = torch.randn(shape, generator=generator).numpy()
    np.testing.assert_allclose(torch_randn(seed, tuple(shape), skip), expected, rtol=0, atol=1e-6)


@given(SEEDS, st.integers(1, 70))
def test_torch_randn_meets_torch_at_every_remainder_of_a_block(seed: int, size: int) -> None:
    expected = torch.randn(size, generator=torch.Generator().manual_seed(seed)).numpy()
    np.testing.assert_allclose(torch_randn(seed, (size,)), expected, rtol=0, atol=1e-6)


def test_a_million_values_stay_within_a_millionth_of_torchs() -> None:
    expected = torch.randn(1_000_003, generator=torch.Generator().manual_seed(11)).numpy()
    np.testing.assert_allclose(torch_randn(11, (1_000_003,)), expected, rtol=0, atol=1e-6)


@settings(max_examples=20)
@given(st.integers(17, 200), st.integers(0, 3))
def test_making_torch_noise_in_chunks_changes_nothing(size: int, skip: int) -> None:
    whole = torch_randn(3, (size,), skip)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "_CHUNK", 32)
        assert np.array_equal(torch_randn(3, (size,), skip), whole)


def test_torch_randn_leaves_numpys_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()
    torch_randn(1, (20,))
    assert np.array_equal(np.random.get_state()[1], before)


def test_a_negative_skip_is_refused() -> None:
    with pytest.raises(ConfigError, match="skip is -1"):
        torch_randn(0, (1,), skip=-1)


SHAPE = (4, 2, 3)


def chosen(choice: object, length: int = 3, denoised: int = 5, seed: int = 7, skip: int = 2) -> np.ndarray:
    """Return the noise of all denoised frames."""
    noise_of = choose_noise(choice, seed, length, denoised, SHAPE, skip)
    return np.stack([noise_of(frame) for frame in range(denoised)])


def test_without_a_choice_noise_is_that_of_each_frame() -> None:
    np.testing.assert_array_equal(chosen(None), video_noise(7, 5, SHAPE))


@pytest.mark.parametrize(("length", "denoised"), [(3, 5), (5, 5), (9, 9)])
def test_upstreams_choice_is_torchs_noise_of_everything_that_is_denoised(length: int, denoised: int) -> None:
    expected = torch_randn(7, (1, 4, denoised, 2, 3), skip=2)
    np.testing.assert_array_equal(chosen("upstream", length, denoised), expected[0].swapaxes(0, 1))


def test_noise_that_is_given_is_used_and_continued_where_the_video_ends() -> None:
    given_noise = np.random.default_rng(0).standard_normal((1, 4, 3, 2, 3)).astype(np.float32)
    found = chosen(given_noise)
    np.testing.assert_array_equal(found[:3], given_noise[0].swapaxes(0, 1))
    np.testing.assert_array_equal(found[3:], [frame_noise(7, frame, SHAPE) for frame in (3, 4)])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 4, 5, 2, 3), np.float32),  # of what is denoised, not of the video
        np.zeros((4, 3, 2, 3), np.float32),
        np.zeros((1, 4, 3, 2, 3)),
        np.zeros((1, 4, 3, 2, 3), np.float16),
        [1.0, 2.0],
        7,
    ],
)
def test_noise_of_another_shape_or_dtype_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match=r"noise has shape .*; expected \(1, 4, 3, 2, 3\) float32"):
        chosen(wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_noise_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="noise holds NaN or infinite values; expected finite ones"):
        chosen(np.full((1, 4, 3, 2, 3), value, np.float32))


@pytest.mark.parametrize("word", ["white", "Upstream", ""])
def test_another_word_for_noise_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=f"noise is {word!r}; expected one of upstream"):
        chosen(word)
