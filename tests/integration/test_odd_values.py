"""Odd values of every type are accepted, or refused by an error of the tree."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.robustness.values import ANY, ARRAYS, value
from tests.support.factories import TINY
from tests.support.live_sessions import CONFIG, open_session
from tests.support.scenes import speech
from vexpress_rt import GenerationConfig, Generator, Portrait
from vexpress_rt.bundle.engine_spec import ModelConfig
from vexpress_rt.config import OPTION_NAMES, brief, exact_rate
from vexpress_rt.errors import AudioError, ConfigError, InputError, OutputError, VExpressError
from vexpress_rt.live.session_config import check_timeout
from vexpress_rt.media.audio_input import check_rate, known_duration
from vexpress_rt.media.recording import open_recording

ODD = st.sampled_from(ANY)
ODD_ARRAYS = st.sampled_from((*ANY, *ARRAYS))
fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


def attempt(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or its error if it is one of the package's; other exceptions pass through."""
    try:
        return call()
    except VExpressError as error:
        refusal = error
    assert len(str(refusal)) < 4500, "a message is read by people"
    return refusal


@given(option=st.sampled_from(OPTION_NAMES), expression=ODD)
@settings(max_examples=500)
def test_an_option_is_kept_as_a_plain_value_or_refused(option: str, expression: str) -> None:
    config = attempt(lambda: GenerationConfig(**{option: value(expression)}))
    if isinstance(config, ConfigError):
        assert str(config).startswith(f"{option} is ")
    else:
        hash(config)
        repr(config)
        assert config.rate is None or 1 <= config.rate <= 240


@given(expression=ODD_ARRAYS, rate=ODD)
@settings(max_examples=500)
def test_sound_is_read_or_refused(expression: str, rate: str) -> None:
    for given_rate in (value(rate), 16000):
        sound = value(expression), given_rate
        recording = attempt(lambda sound=sound: open_recording(sound, 16000))
        if not isinstance(recording, AudioError):
            assert recording.count >= 1
            assert np.isfinite(recording.mean)


@pytest.mark.parametrize(
    ("rate", "hertz"),
    [(np.float16(16000), 16000), (np.longdouble(44100), 44100), (np.uint32(768000), 768000), (Fraction(8000), 8000),
     (48000.0, 48000), (np.int16(22050), 22050)],
    ids=str,
)  # fmt: skip
def test_a_whole_rate_of_any_number_type_is_taken(rate: Any, hertz: int) -> None:
    assert check_rate(rate) == hertz
    assert type(check_rate(rate)) is int
    assert known_duration((np.zeros(hertz, np.float32), rate)) == 1


@pytest.mark.parametrize(
    "rate",
    [np.float16("inf"), np.float16("nan"), float("inf"), float("nan"), 10**400, -(10**400), 16000.5, Decimal(16000),
    16000j, "16000", True,
     np.bool_(True), np.timedelta64(16000, "s"), np.array([16000]), None, Fraction(32001, 2), 999, 768001],
    ids=brief,
)  # fmt: skip
def test_an_invalid_rate_is_refused_before_the_samples_are_checked(rate: Any) -> None:
    with pytest.raises(AudioError, match=r"a sample rate of .*expected whole Hz between 1000 and 768000"):
        check_rate(rate)
    with pytest.raises(AudioError, match="a sample rate of"):
        known_duration((np.zeros(400, np.float32), rate))


@pytest.mark.parametrize(
    "fps",
    [np.float16("inf"), "1/0", Fraction(10**400), 10**5000, Decimal(30), 30j, b"30", True, np.timedelta64(30)],
    ids=brief,
)
def test_an_invalid_frame_rate_is_refused(fps: Any) -> None:
    with pytest.raises(ConfigError, match=r"fps is .*expected frames per second between 1 and 240"):
        exact_rate(fps)


@pytest.mark.parametrize("dtype", [">i2", "<i2"])
def test_int16_of_either_byte_order_is_the_same_sound(dtype: str) -> None:
    samples = (np.sin(np.arange(4000) / 9) * 9000).astype(np.int16)
    found, expected = (open_recording((one, 16000), 16000) for one in (samples.astype(dtype), samples))
    assert (found.mean, found.variance) == (expected.mean, expected.variance)


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8", ">f8", np.longdouble])
def test_floats_of_any_width_and_byte_order_are_the_same_sound(kind: Any) -> None:
    samples = np.round(np.sin(np.arange(4000) / 9) * 64) / 256  # exact in every dtype
    found = open_recording((samples.astype(kind), 16000), 16000)
    expected = open_recording((samples.astype(np.float32), 16000), 16000)
    assert (found.mean, found.variance) == (expected.mean, expected.variance)


def test_the_first_bad_sample_is_named_wherever_it_lies() -> None:
    samples = np.zeros((2, 5_000_000), np.float32)
    samples[1, 4_500_001] = samples[0, 4_999_999] = np.nan
    with pytest.raises(AudioError, match="2 audio samples are NaN or infinite, the first at 4500001"):
        open_recording((samples, 16000), 16000)


@fixtures
@given(name=st.sampled_from(["keypoints", "crop", "source"]), expression=ODD_ARRAYS)
def test_a_photo_is_prepared_or_refused(generator: Generator, name: str, expression: str) -> None:
    arguments = {"source": np.zeros((64, 64, 3), np.uint8), name: value(expression)}
    portrait = attempt(lambda: generator.prepare(**arguments))
    assert isinstance(portrait, VExpressError) or portrait.image.shape == (*generator.size, 3)


@fixtures
@given(
    name=st.sampled_from(
        [
            "portrait",
            "audio",
            "keypoints",
            "retarget",
            "config",
            "noise",
            "keypoints",
            "window_order",
            "progress",
            "output",
            "keep_frames",
        ]
    ),
    expression=ODD_ARRAYS,
)
def test_a_video_is_made_or_refused(generator: Generator, portrait: Portrait, name: str, expression: str) -> None:
    arguments = {"portrait": portrait, "audio": speech(0.1), "config": CONFIG, name: value(expression)}
    try:
        video = attempt(lambda: generator.generate(**arguments))
    except (KeyError, TypeError):
        assert name == "progress", "what a caller's function raises comes out, and nothing else"
        return
    assert isinstance(video, VExpressError) or video.frames is None or len(video.frames) == video.length


@fixtures
@given(
    name=st.sampled_from(
        [
            "portrait",
            "retarget",
            "extension",
            "config",
            "sample_rate",
            "look_ahead",
            "context",
            "overload",
            "max_lag",
            "idle_after",
        ]
    ),
    expression=ODD_ARRAYS,
)
def test_a_live_session_is_opened_or_refused(
    generator: Generator, portrait: Portrait, name: str, expression: str
) -> None:
    session = attempt(lambda: generator.live(**{"portrait": portrait, "config": CONFIG, name: value(expression)}))
    if not isinstance(session, VExpressError):
        with session:
            assert session.pull(idle=True) is not None


@fixtures
@given(samples=ODD_ARRAYS, rate=ODD)
def test_pushed_sound_is_taken_whole_or_refused(
    generator: Generator, portrait: Portrait, samples: str, rate: str
) -> None:
    with open_session(generator, portrait) as session:
        result = attempt(lambda: session.push(value(samples), value(rate)))
        assert result is None or session.lag == 0


@given(expression=ODD)
def test_a_timeout_is_seconds_or_refused(expression: str) -> None:
    seconds = attempt(lambda: check_timeout(value(expression)))
    assert seconds is None or isinstance(seconds, ConfigError) or 0 <= seconds < 1e10


@fixtures
@given(expression=ODD)
def test_shown_frames_are_a_number_or_refused(generator: Generator, portrait: Portrait, expression: str) -> None:
    shown = value(expression)
    with open_session(generator, portrait) as session:
        result = attempt(lambda: session.interrupt(shown))
        assert isinstance(result, InputError) or shown is None or shown == 0


@given(expression=ODD)
@settings(max_examples=300)
def test_a_generator_refuses_odd_arguments(expression: str) -> None:
    for name in ("bundle", "provider", "threads", "rebuild", "progress", "share_weights"):
        arguments = {"provider": "cpu", name: value(expression)}
        generator = attempt(lambda arguments=arguments: Generator(**arguments))
        assert isinstance(generator, (Generator, VExpressError))


@pytest.mark.parametrize("bundle", [5, b"bundle", object(), ["a"], 1.5])
def test_a_bundle_is_a_path(bundle: Any) -> None:
    with pytest.raises(ConfigError, match=r"the bundle is .*expected a path"):
        Generator(bundle)


@pytest.mark.parametrize("keep", [1, "yes", [], np.array([True, False])])
def test_keep_frames_is_a_bool(generator: Generator, portrait: Portrait, keep: Any) -> None:
    with pytest.raises(ConfigError, match=r"keep_frames is .*expected True or False"):
        generator.generate(portrait, speech(0.1), config=CONFIG, keep_frames=keep)


@pytest.mark.parametrize("output", [5, b"x.mp4", object(), [], np.array("x.mp4")])
def test_an_output_that_is_not_a_path_is_refused(generator: Generator, portrait: Portrait, output: Any) -> None:
    with pytest.raises(OutputError):
        generator.generate(portrait, speech(0.1), config=CONFIG, output=output)


@pytest.mark.parametrize("expression", ["Bad()", "10**5000", "'x' * 10**6", "[[[]] * 99] * 99", "np.zeros(10**6)"])
def test_any_value_has_a_short_representation(expression: str) -> None:
    assert 0 < len(brief(value(expression))) <= 1100


def test_a_manifest_is_not_repeated_in_full_by_its_error() -> None:
    with pytest.raises(ConfigError, match="up_attention") as caught:
        ModelConfig.from_json(TINY | {"up_attention": ["x" * 10_000] * 50})
    assert len(str(caught.value)) < 2000
    with pytest.raises(ConfigError, match="lacks or does not know") as caught:
        ModelConfig.from_json(TINY | {"x" * 10_000: 1})
    assert len(str(caught.value)) < 2000
