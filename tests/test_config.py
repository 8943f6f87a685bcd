"""What a caller may choose: defaults, ranges, and how each refusal reads."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexpress_rt.config import OPTION_NAMES, GenerationConfig, check_choice, check_threads, exact_rate
from vexpress_rt.errors import ConfigError


def test_defaults_are_those_of_the_published_pipeline() -> None:
    config = GenerationConfig()
    assert (config.steps, config.guidance_scale, config.overlap, config.seed) == (25, 3.5, 4, 42)
    assert (config.reference_attention_weight, config.audio_attention_weight) == (0.95, 3.0)
    assert config.median_filter is True
    assert config.rate == 30


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenerationConfig().steps = 3  # type: ignore[misc]


def test_options_are_given_by_name_only() -> None:
    with pytest.raises(TypeError):
        GenerationConfig(25)  # type: ignore[misc]


def test_an_unknown_option_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(ConfigError, match=r"^'guidance' is no option; expected steps, .*did you mean 'guidance_scale'"):
        GenerationConfig(guidance=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"^'stepz' is no option.*did you mean 'steps'"):
        dataclasses.replace(GenerationConfig(), stepz=3)  # type: ignore[call-arg]


def test_an_option_like_none_is_refused_without_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"^'zzzz' is no option; expected steps, [^?]*$"):
        GenerationConfig(zzzz=2)  # type: ignore[call-arg]


def test_a_configuration_can_be_copied_and_sent_to_another_process() -> None:
    config = GenerationConfig(steps=3, fps=29.97)
    for copied in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert copied == config
        assert copied.rate == Fraction(30000, 1001)


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.5, True, "2"])
def test_an_impossible_number_of_threads_is_refused(threads: Any) -> None:
    for possible in (None, 1, 1024):
        check_threads(possible)
    with pytest.raises(ConfigError, match=f"threads is {threads!r}; expected a whole number of at least 1 .*or None"):
        check_threads(threads)


def test_the_derived_rate_is_no_option() -> None:
    assert "rate" not in OPTION_NAMES
    assert OPTION_NAMES[0] == "steps"
    assert {f.name for f in dataclasses.fields(GenerationConfig)} - set(OPTION_NAMES) == {"rate"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", 0),
        ("steps", 1001),
        ("steps", 2.0),
        ("steps", True),
        ("steps", "25"),
        ("steps", None),
        ("guidance_scale", -0.1),
        ("guidance_scale", 101),
        ("guidance_scale", float("nan")),
        ("guidance_scale", "3.5"),
        ("reference_attention_weight", -1),
        ("reference_attention_weight", 11),
        ("audio_attention_weight", -1),
        ("audio_attention_weight", float("inf")),
        ("overlap", -1),
        ("overlap", 0.5),
        ("seed", -1),
        ("seed", 2**64),
        ("guidance_scale", 10**400),
        ("quality", -1),
        ("quality", 52),
        ("median_filter", 1),
        ("upstream_anchor", "yes"),
        ("extension", "repeat"),
        ("extension", None),
        ("fps", 0),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{option} is ") as caught:
        GenerationConfig(**{option: value})
    assert repr(value) in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", 1), ("steps", 1000), ("guidance_scale", 0), ("seed", 2**64 - 1), ("overlap", 0), ("quality", 0)],
)
def test_the_ends_of_a_range_are_accepted(option: str, value: int) -> None:
    assert getattr(GenerationConfig(**{option: value}), option) == value


def test_a_range_is_told_with_its_ends() -> None:
    with pytest.raises(ConfigError, match=r"steps is 0; expected a whole number of at least 1 and at most 1000"):
        GenerationConfig(steps=0)
    with pytest.raises(ConfigError, match=r"overlap is -1; expected a whole number of at least 0$"):
        GenerationConfig(overlap=-1)


def test_an_overlap_of_a_whole_window_does_not_fit_the_bundle() -> None:
    GenerationConfig(overlap=23).check_against(24)
    with pytest.raises(
        ConfigError, match=r"overlap is 24; expected less than the bundle's window of 24 frames.* 0 to 23"
    ):
        GenerationConfig(overlap=24).check_against(24)


@pytest.mark.parametrize(
    ("given_rate", "rate"),
    [
        (30, Fraction(30)),
        (25.0, Fraction(25)),
        (29.97, Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        ("30000/1001", Fraction(30000, 1001)),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
        (12.5, Fraction(25, 2)),
        ("25", Fraction(25)),
        (1, Fraction(1)),
        (240, Fraction(240)),
    ],
)
def test_frame_rates_become_exact_fractions(given_rate: Any, rate: Fraction) -> None:
    assert exact_rate(given_rate) == rate


@pytest.mark.parametrize("value", [0, 0.99, 240.1, -30, float("nan"), float("inf"), "fast", "1/0", None, True, [30]])
def test_rates_outside_the_range_or_of_another_type_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"fps is .*expected frames a second between 1 and 240"):
        exact_rate(value)


@given(st.integers(1, 240))
def test_whole_rates_are_kept(rate: int) -> None:
    assert exact_rate(rate) == rate
    assert exact_rate(float(rate)) == rate


@given(st.floats(1, 240))
def test_any_rate_in_range_is_met_closely_by_a_small_fraction(rate: float) -> None:
    exact = exact_rate(rate)
    assert exact.denominator <= 1001
    assert abs(exact - Fraction(rate)) < Fraction(1, 900)


def test_an_exact_rate_stays_as_it_is() -> None:
    for rate in (29.97, 23.976, 12.5, 30, 59.94):
        assert exact_rate(exact_rate(rate)) == exact_rate(rate)


def test_a_choice_is_refused_with_what_there_is() -> None:
    check_choice("mode", "a", ("a", "b"))
    with pytest.raises(ConfigError, match="mode is 'c'; expected one of a, b"):
        check_choice("mode", "c", ("a", "b"))


@pytest.mark.parametrize("value", [np.int64(4), np.uint8(4)])
def test_numbers_of_numpy_become_pythons(value: Any) -> None:
    config = GenerationConfig(steps=value, fps=value, guidance_scale=np.float32(2.5), median_filter=np.True_)
    assert (config.steps, type(config.steps)) == (4, int)
    assert (config.rate, type(config.rate.numerator)) == (Fraction(4), int)
    assert (config.guidance_scale, config.median_filter) == (2.5, True)


@pytest.mark.parametrize("text", ["1e9999999", "3e1", "1" * 40])
def test_a_rate_that_could_be_endless_to_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="fps is"):
        GenerationConfig(fps=text)
