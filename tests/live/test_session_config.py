"""What a live session refuses, how much it keeps, and where its head is."""

from __future__ import annotations

import math
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.fakes import FakeBackend, red_spots
from tests.support import moving_spots
from tests.support.live_sessions import CONFIG, NEW, open_session, push_all, voice
from tests.support.scenes import FAST, photo, track
from vexpress_rt import GenerationConfig, Generator, KeypointTrack, LiveSession, Portrait
from vexpress_rt.errors import AudioError, ConfigError, KeypointError, NoFaceError
from vexpress_rt.face.keypoint_map import draw_keypoint_map
from vexpress_rt.face.keypoint_track import resample
from vexpress_rt.live import session as live

# Bounds


def test_memory_does_not_grow(generator: Generator, portrait: Portrait) -> None:
    config = GenerationConfig(steps=1, overlap=2, fps=25, guidance_scale=1, median_filter=False)
    with open_session(generator, portrait, config=config) as session:
        sizes = []
        for second in range(40):
            session.push(voice(1))
            if second % 5 == 4:
                session.flush()
            list(session.frames())
            sizes.append((len(session._latents), session._audio.kept))
    assert len(set(sizes[20::5])) == 1
    assert max(size[0] for size in sizes) <= 13 + 2 + NEW


def test_speech_that_nobody_pulls_is_refused_before_it_fills_the_memory(
    generator: Generator, portrait: Portrait
) -> None:
    with open_session(generator, portrait, max_lag=2) as session:
        session.push(voice(1.5))
        assert session.lag == 1.5
        with pytest.raises(AudioError, match=r"2\.50 seconds .* expected at most max_lag, 2: pull frames first"):
            session.push(voice(1))
        assert session.lag == 1.5
        with pytest.raises(AudioError, match=r"^2\.0001 seconds .* expected at most max_lag, 2: "):
            session.push(voice(0.6)[: 8000 + 1])
        list(session.frames())
        assert session.lag == pytest.approx(1.5 - (5 * NEW - 1) / 25)
        session.push(voice(1))


@pytest.mark.parametrize(("fps", "seconds"), [(25, 5.0), (1, 14.0)])
def test_the_default_max_lag_is_a_few_seconds_or_two_windows(
    generator: Generator, portrait: Portrait, fps: int, seconds: float
) -> None:
    config = GenerationConfig(steps=1, overlap=2, fps=fps, guidance_scale=1)
    with open_session(generator, portrait, config=config, look_ahead=0) as session:
        session.push(np.zeros(round(seconds * 16000), np.float32))
        with pytest.raises(AudioError, match=f"at most max_lag, {seconds:g}: "):
            session.push(np.zeros(1, np.float32))


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize(("rate", "fps"), [(16000, 6), (1000, 7), (768_000, 6)])
def test_with_the_least_max_lag_that_is_taken_every_window_comes(
    generator: Generator, portrait: Portrait, rate: int, fps: int, filtered: bool
) -> None:
    config = GenerationConfig(steps=1, overlap=2, fps=fps, guidance_scale=1, median_filter=filtered)
    with pytest.raises(ConfigError, match="no frame can be made of less than") as refused:
        open_session(generator, portrait, config=config, sample_rate=rate, look_ahead=1, max_lag=1)
    least = math.ceil(float(str(refused.value).split("less than ")[1].split()[0]) * 100) / 100
    with open_session(
        generator, portrait, config=config, sample_rate=rate, look_ahead=1, max_lag=least + 0.01
    ) as session:
        count = 0
        for _ in range(500):
            session.push(np.zeros(rate // 100, np.float32))
            count += len(list(session.frames()))
    assert count >= 2 * NEW


def test_too_much_is_refused_before_it_is_looked_at(session: LiveSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "to_float32", lambda samples: pytest.fail("converted"))
    with pytest.raises(AudioError, match="would wait to be pulled"):
        session.push(np.zeros(61 * 16000, np.int16))


@pytest.mark.parametrize("timeout", ["x", [], -0.1, float("nan"), np.float32("nan"), True, 1j])
def test_a_timeout_that_is_none_is_named(session: LiveSession, timeout: Any) -> None:
    for use in (session.pull, session.frames):
        with pytest.raises(ConfigError, match=r"timeout is .*; expected seconds of at least 0, or None to wait"):
            use(timeout)


@pytest.mark.parametrize(
    "timeout", [0, np.float32(0.01), Fraction(1, 100), float("inf"), 1e10, 10**400, threading.TIMEOUT_MAX]
)
def test_any_other_is_taken_however_long(session: LiveSession, timeout: Any) -> None:
    session.push(voice(0.1))
    timer = threading.Timer(0.03, session.flush)
    timer.start()
    frame = session.pull(timeout)
    timer.join()
    assert (frame is not None) == (timeout > 1)
    assert len(list(session.frames(np.float32(0)))) == (2 if frame else 3)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 8), np.float32), r"shape \(2, 8\); expected a NumPy array \(n,\)"),
        ([0.0, 1.0], "audio samples of list"),
        (np.array([0, np.nan, 1], np.float32), "1 audio samples are NaN or infinite, the first at 1"),
        (np.ma.masked_invalid(np.array([0, np.nan, 1], np.float32)), "NaN or infinite, the first at 1"),
        (np.array([0, 3e38], np.float32), "expected full scale 1"),
        (np.zeros(3, np.int32), "dtype int32"),
    ],
)
def test_sound_that_is_none_is_refused_and_nothing_of_it_taken(
    session: LiveSession, samples: Any, message: str
) -> None:
    with pytest.raises(AudioError, match=message):
        session.push(samples)
    assert session.lag == 0
    with pytest.raises(AudioError, match="a sample rate of 0"):
        session.push(voice(0.1), 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"look_ahead": -1}, ConfigError, "look_ahead is -1; expected 0 to 5 seconds"),
        ({"look_ahead": "0.1"}, ConfigError, "look_ahead is '0.1'"),
        ({"context": 0.1}, ConfigError, r"context is 0\.1; expected 0\.5 to 30 seconds"),
        ({"max_lag": float("nan")}, ConfigError, "max_lag is nan"),
        ({"overload": "wait"}, ConfigError, "overload is 'wait'; expected one of raise, drop, skip"),
        ({"idle_after": -1}, ConfigError, "idle_after is -1; expected 0 to 3600 seconds"),
        ({"sample_rate": 0}, AudioError, "a sample rate of 0"),
        ({"sample_rate": 1}, AudioError, "a sample rate of 1; expected whole Hz between 1000 and 768000"),
        (
            {"look_ahead": 5, "max_lag": 1},
            ConfigError,
            r"max_lag is 1 seconds, .* less than 5\.28 seconds .*125 of look",
        ),
        (
            {"config": GenerationConfig(fps=1, overlap=2), "max_lag": 5},
            ConfigError,
            r"less than 8\.00 .*larger max_lag",
        ),
        ({"config": {"steps": 3}}, ConfigError, "expected a GenerationConfig"),
        ({"config": GenerationConfig(overlap=8)}, ConfigError, "overlap is 8"),
        ({"extension": "stretch"}, ConfigError, "extension is 'stretch'; expected .*hold"),
        ({"keypoints": track(4) - 500}, KeypointError, "wholly outside the picture"),
        ({"retarget": "naive_retarget"}, ConfigError, "which follows keypoints, and there are none"),
    ],
)
def test_impossible_options_are_named(
    generator: Generator, portrait: Portrait, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_session(generator, portrait, **options)


def test_a_photo_without_a_face_cannot_be_held(generator: Generator) -> None:
    with pytest.raises(NoFaceError, match="fix_face needs"):
        generator.live(np.zeros((64, 64, 3), np.uint8), config=FAST)


# Keypoints


@pytest.mark.parametrize(
    ("extension", "expected"),
    [("mirror", [0, 1, 2, 3, 2, 1, 0, 1, 2]), ("loop", [0, 1, 2, 3, 0, 1, 2, 3, 0]), ("hold", [0, 1, 2] + [3] * 6)],
)
def test_a_track_goes_on_after_its_end(
    generator: Generator, portrait: Portrait, backend: FakeBackend, extension: str, expected: list[int]
) -> None:
    with open_session(generator, portrait, keypoints=track(4), extension=extension) as session:
        push_all(session, [voice(9 / 25)])
    rest, *windows = (call["drawings"] for call in backend.calls("pose_guider"))
    drawn = [draw_keypoint_map(points, 64, 64) for points in track(4)]
    np.testing.assert_array_equal(rest, np.stack([drawn[0]] * 8))
    np.testing.assert_array_equal(windows[0][2:], np.stack([drawn[frame] for frame in expected[:6]]))
    np.testing.assert_array_equal(windows[1][2:5], np.stack([drawn[frame] for frame in expected[6:]]))


def test_a_track_of_another_rate_keeps_its_pace(generator: Generator, portrait: Portrait, backend: FakeBackend) -> None:
    given = KeypointTrack(track(8), Fraction(50))
    with open_session(generator, portrait, keypoints=given, extension="hold") as session:
        push_all(session, [voice(5 / 25)])
    points = resample(given, Fraction(25)).points
    expected = np.stack([draw_keypoint_map(points[min(frame, 3)], 64, 64) for frame in range(6)])
    np.testing.assert_array_equal(backend.calls("pose_guider")[1]["drawings"][2:], expected)


def test_without_a_track_the_photos_face_is_held(
    session: LiveSession, portrait: Portrait, backend: FakeBackend
) -> None:
    push_all(session, [voice(0.3)])
    assert portrait.keypoints is not None
    (call,) = backend.calls("pose_guider")  # for all windows
    np.testing.assert_array_equal(call["drawings"], np.stack([draw_keypoint_map(portrait.keypoints, 64, 64)] * 8))


# Notes


def test_a_session_tells_what_was_found_in_the_photo_and_in_the_driving_video(
    generator: Generator, tmp_path: Path
) -> None:
    two = red_spots(photo(height=128, width=256, x=60, y=60), (200, 64))
    driving = moving_spots.write(tmp_path / "driving.mp4", range(12), pictures=[two] * 12)
    with generator.live(two, keypoints=driving, retarget="offset_retarget", config=CONFIG) as session:
        assert [note.split(", ")[0] for note in session.notes] == [
            "photo: the largest face was taken", "driving video: the largest face was taken",
        ]  # fmt: skip
        assert all("another is of similar size" in note for note in session.notes)


def test_a_session_of_a_photo_without_a_face_says_so(generator: Generator, portrait: Portrait) -> None:
    note = "photo: no face was found in it, so it is cut around its centre"
    faceless = np.full((64, 128, 3), 90, np.uint8)
    with generator.live(faceless, keypoints=track(9), config=CONFIG) as session:
        assert session.notes == (note,)
    with generator.live(generator.prepare(faceless), keypoints=track(9), config=CONFIG) as session:
        assert session.notes == (note,)
    with generator.live(portrait, config=CONFIG) as session:
        assert session.notes == ()
    with generator.live(portrait, keypoints=track(9), retarget="fix_face", config=CONFIG) as session:
        assert session.notes == ("keypoints were not used: fix_face holds the photo's own face still",)
