"""Options: defaults, ranges, and the message of each refusal."""

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

from vexpress_rt.config import (
    RECOMMENDABLE,
    GenerationConfig,
    Settings,
    check_choice,
    check_recommended,
    check_threads,
    current_names,
    exact_rate,
)
from vexpress_rt.errors import ConfigError


def test_defaults_are_those_of_the_published_pipeline() -> None:
    settings = GenerationConfig().resolve({}, 24)
    assert (settings.steps, settings.guidance_scale, settings.overlap, settings.seed) == (25, 3.5, 4, 42)
    assert (settings.reference_attention_weight, settings.audio_attention_weight) == (0.95, 3.0)
    assert (settings.sampler, settings.guidance_interval, settings.uncond_interval) == ("ddim", (0, 1), 1)
    assert settings.median_filter is True
    assert settings.noise_gate is True
    assert settings.rate == 30


def test_what_a_caller_leaves_open_is_as_the_bundle_recommends() -> None:
    recommended = {"steps": 10, "guidance_scale": 2, "overlap": 3, "fps": 25, "median_filter": False}
    settings = GenerationConfig(steps=7, seed=1).resolve(recommended, 12)
    assert settings == Settings(steps=7, seed=1, guidance_scale=2, overlap=3, fps=25, median_filter=False)
    assert settings.rate == 25


def test_a_choice_of_nought_or_off_is_a_choice() -> None:
    recommended = {"guidance_scale": 2, "overlap": 3, "median_filter": True}
    settings = GenerationConfig(guidance_scale=0, overlap=0, median_filter=False).resolve(recommended, 12)
    assert (settings.guidance_scale, settings.overlap, settings.median_filter) == (0, 0, False)


def test_the_published_settings_win_over_a_recommendation_where_they_are_chosen() -> None:
    assert Settings().resolve({"steps": 10, "fps": 25}, 24) == Settings()


def test_exactly_the_options_that_a_bundle_can_recommend_are_open() -> None:
    open_ones = {name for name, value in vars(GenerationConfig()).items() if value is None}
    assert open_ones == {"preset", *RECOMMENDABLE}
    assert GenerationConfig().rate is None
    assert [name for name, value in vars(Settings()).items() if value is None] == ["preset"]


@pytest.mark.parametrize(("frames", "overlap"), [(1, 0), (2, 1), (5, 2), (7, 3), (8, 4), (24, 4)])
def test_windows_that_are_small_overlap_by_half(frames: int, overlap: int) -> None:
    assert GenerationConfig().resolve({}, frames).overlap == overlap


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "'seed' is recommended to be 1; expected a number, true or false for some of steps, sampler, "),
        ({"stepz": 1}, "'stepz' is recommended to be 1; expected"),
        ({"steps": None}, "'steps' is recommended to be None"),
        ({"fps": "1/0"}, "'fps' is recommended to be '1/0'"),
        ({"steps": [1] * 10**6}, r"'steps' is recommended to be \[1, 1, 1, 1, 1, 1, ...\]; expected"),
        ({"steps": 2.5}, "steps is 2.5; expected a whole number"),
        ({"steps": "8"}, "'steps' is recommended to be '8'; expected a number"),
        ({"preset": "fast"}, "'preset' is recommended to be 'fast'"),
        ({"sampler": 2}, r"'sampler' is recommended to be 2; .*\(sampler: a name; guidance_interval: two numbers\)"),
        ({"sampler": "euler"}, "sampler is 'euler'; expected one of"),
        ({"guidance_interval": 0.5}, "'guidance_interval' is recommended to be 0.5"),
        ({"guidance_interval": [0.5] * 10**6}, r"guidance_interval is \[0.5, .*...\]; expected two numbers"),
        ({"guidance_interval": [0.5, "x"]}, "guidance_interval is "),
        ({"steps": True}, "steps is True; expected a whole number"),
        ({"median_filter": 1}, "median_filter is 1; expected True or False"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"fps": 1000}, "fps is 1000"),
    ],
)
def test_what_no_bundle_can_recommend_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        check_recommended(options)
    with pytest.raises(ConfigError, match=f"^{message}"):
        GenerationConfig().resolve(options, 24)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenerationConfig().steps = 3  # type: ignore[misc]


def test_options_are_given_by_name_only() -> None:
    with pytest.raises(TypeError):
        GenerationConfig(25)  # type: ignore[misc]


def test_an_unknown_option_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(
        ConfigError, match=r"^'guidance' is no option; expected preset, steps, .*did you mean 'guidance_scale'"
    ):
        GenerationConfig(guidance=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"^'stepz' is no option.*did you mean 'steps'"):
        dataclasses.replace(GenerationConfig(), stepz=3)  # type: ignore[call-arg]


def test_former_names_of_options_are_refused_with_the_new_ones() -> None:
    with pytest.raises(ConfigError, match=r"'unconditional_every' is no option; .*called uncond_interval now$"):
        GenerationConfig(unconditional_every=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"'unconditional_every' is recommended to be 2"):
        check_recommended({"unconditional_every": 2})


def test_former_names_in_files_become_the_new_ones() -> None:
    assert current_names({"steps": 3, "unconditional_every": 2}) == {"steps": 3, "uncond_interval": 2}
    both = {"unconditional_every": 2, "uncond_interval": 3}
    assert current_names(both) == both


def test_an_option_like_none_is_refused_without_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"^'zzzz' is no option; expected preset, steps, [^?]*$"):
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


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", 0),
        ("steps", 1001),
        ("steps", 2.0),
        ("steps", True),
        ("steps", "25"),
        ("seed", None),
        ("guidance_scale", -0.1),
        ("guidance_scale", 101),
        ("guidance_scale", float("nan")),
        ("guidance_scale", "3.5"),
        ("reference_attention_weight", -1),
        ("reference_attention_weight", 11),
        ("audio_attention_weight", -1),
        ("audio_attention_weight", float("inf")),
        ("pose_weight", -1),
        ("depth_weight", 11),
        ("overlap", -1),
        ("overlap", 0.5),
        ("seed", -1),
        ("seed", 2**64),
        ("guidance_scale", 10**400),
        ("quality", -1),
        ("quality", 52),
        ("median_filter", 1),
        ("noise_gate", "voice"),
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


def test_a_range_is_named_with_its_ends() -> None:
    with pytest.raises(ConfigError, match=r"steps is 0; expected a whole number of at least 1 and at most 1000"):
        GenerationConfig(steps=0)
    with pytest.raises(ConfigError, match=r"overlap is -1; expected a whole number of at least 0$"):
        GenerationConfig(overlap=-1)


def test_an_overlap_of_a_whole_window_does_not_fit_the_bundle() -> None:
    assert GenerationConfig(overlap=23).resolve({}, 24).overlap == 23
    complaint = r"overlap is 24; expected less than the bundle's window of 24 frames.* 0 to 23"
    with pytest.raises(ConfigError, match=complaint):
        GenerationConfig(overlap=24).resolve({}, 24)
    with pytest.raises(ConfigError, match=complaint):
        GenerationConfig().resolve({"overlap": 24}, 24)


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
    with pytest.raises(ConfigError, match=r"fps is .*expected frames per second between 1 and 240"):
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
