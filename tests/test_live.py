"""A live session: sound in, frames out; engines are fakes, everything else is real."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes import SMALL, FakeBackend
from tests.scenes import FAST, photo, speech, track
from vexpress_rt import GenerationConfig, Generator, KeypointTrack, LiveFrame, LiveSession, Portrait
from vexpress_rt.errors import AudioError, BackendError, ConfigError, InputError, KeypointError, NoFaceError
from vexpress_rt.keypoints import draw_keypoints, resample
from vexpress_rt.live_sound import boundary
from vexpress_rt.schedule import alphas_cumprod

CONFIG = GenerationConfig(steps=2, overlap=2, fps=25, guidance_scale=1)
ALPHAS = alphas_cumprod(SMALL.train_timesteps, SMALL.beta_start, SMALL.beta_end)
NEW = 6  # frames of a window that are new


@pytest.fixture
def portrait(generator: Generator) -> Portrait:
    return generator.prepare(photo())


def open_session(generator: Generator, portrait: Portrait, **options: Any) -> LiveSession:
    return generator.live(portrait, **{"config": CONFIG, "look_ahead": 0.08, "context": 0.5, **options})


@pytest.fixture
def session(generator: Generator, portrait: Portrait) -> LiveSession:
    return open_session(generator, portrait)


def voice(seconds: float, rate: int = 16000) -> np.ndarray:
    return speech(seconds, rate)[0]


def said_by(session: LiveSession, pieces: Iterable[np.ndarray], rate: int | None = None) -> list[LiveFrame]:
    """The frames of a speech that is pushed in pieces, and pulled in between."""
    frames: list[LiveFrame] = []
    for piece in pieces:
        session.push(piece, rate)
        frames += session.frames()
    session.flush()
    return [*frames, *session.frames()]


def images(frames: Iterable[LiveFrame]) -> np.ndarray:
    return np.stack([frame.image for frame in frames])


# What goes in and what comes out


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(cuts=st.lists(st.integers(0, 16000), max_size=10), rate=st.sampled_from([16000, 24000]))
def test_how_the_sound_was_cut_changes_no_bit(
    generator: Generator, portrait: Portrait, cuts: list[int], rate: int
) -> None:
    said = voice(16000 / rate, rate)
    with open_session(generator, portrait) as one, open_session(generator, portrait) as other:
        expected = said_by(one, [said], rate)
        found = said_by(other, np.split(said, sorted(cuts)), rate)
    np.testing.assert_array_equal(images(found), images(expected))
    for a, b in zip(found, expected, strict=True):
        assert (a.index, a.time) == (b.index, b.time)
        np.testing.assert_array_equal(a.samples, b.samples)


@pytest.mark.parametrize(
    ("samples", "rate", "fps", "length"),
    [(0, 16000, 25, 0), (1, 16000, 25, 1), (640, 16000, 25, 1), (641, 16000, 25, 2), (16000, 16000, 30, 30),
     (16016, 16000, 29.97, 30), (16017, 16000, 29.97, 31), (44100, 44100, 12.5, 13)],
)  # fmt: skip
def test_a_speech_has_the_frames_that_generate_would_give_it(
    generator: Generator, portrait: Portrait, samples: int, rate: int, fps: float, length: int
) -> None:
    config = GenerationConfig(steps=1, overlap=2, fps=fps, guidance_scale=1)
    with open_session(generator, portrait, config=config, sample_rate=rate) as session:
        frames = said_by(session, [np.zeros(samples, np.float32)])
        exact = config.rate
    assert [frame.index for frame in frames] == list(range(length))
    assert exact is not None
    assert all(frame.time == frame.index / exact for frame in frames)


@pytest.mark.parametrize(("rate", "fps"), [(16000, 25), (22050, 29.97), (48000, 30)])
def test_each_frame_has_exactly_its_samples(generator: Generator, portrait: Portrait, rate: int, fps: float) -> None:
    said = voice(0.7, rate)
    config = GenerationConfig(steps=1, overlap=2, fps=fps, guidance_scale=1)
    with open_session(generator, portrait, config=config, sample_rate=rate) as session:
        frames = said_by(session, np.array_split(said, 11))
        for frame in frames:
            start, stop = (boundary(index, rate, session.fps) for index in (frame.index, frame.index + 1))
            assert len(frame.samples) == stop - start
    given_back = np.concatenate([frame.samples for frame in frames])
    np.testing.assert_array_equal(given_back[: len(said)], said)
    assert not given_back[len(said) :].any()


def test_frames_are_pictures_of_the_bundles_size_that_hear_the_sound(session: LiveSession) -> None:
    frames = said_by(session, [np.zeros(9600, np.float32), voice(0.5)])
    assert {frame.image.shape for frame in frames} == {(64, 64, 3)}
    assert {frame.image.dtype for frame in frames} == {np.dtype(np.uint8)}
    quiet, loud = images(frames[:8]).astype(float), images(frames[-8:]).astype(float)
    assert abs(loud.mean() - quiet.mean()) > 1


def test_int16_is_as_good_and_another_full_scale_is_not_guessed(generator: Generator, portrait: Portrait) -> None:
    said = (voice(0.4) * 32768).astype(np.int16)
    with open_session(generator, portrait) as one, open_session(generator, portrait) as other:
        found = said_by(one, [said])
        np.testing.assert_array_equal(images(found), images(said_by(other, [said / np.float32(32768)])))
        with pytest.raises(AudioError, match="dtype int64"):
            one.push(said.astype(np.int64))


def test_what_was_pushed_may_be_overwritten_afterwards(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait) as one, open_session(generator, portrait) as other:
        buffer = voice(0.4)
        one.push(buffer)
        buffer[:] = 0
        one.flush()
        np.testing.assert_array_equal(images(one.frames()), images(said_by(other, [voice(0.4)])))


# When frames come


@pytest.mark.parametrize(("filtered", "frames"), [(False, NEW), (True, NEW - 1)])
def test_a_window_comes_when_its_sound_and_the_look_ahead_are_there(
    generator: Generator, portrait: Portrait, filtered: bool, frames: int
) -> None:
    """But its last frame waits, if filtered, for the next window, in which its neighbour is."""
    config = GenerationConfig(steps=2, overlap=2, fps=25, guidance_scale=1, median_filter=filtered)
    with open_session(generator, portrait, config=config) as session:
        needed = (NEW + 2) * 640
        session.push(voice(1)[: needed - 1])
        assert session.pull() is None
        session.push(voice(1)[needed - 1 : needed])
        assert [frame.index for frame in session.frames()] == list(range(frames))
        session.push(voice(1)[needed : needed + NEW * 640])
        assert [frame.index for frame in session.frames()] == list(range(frames, frames + NEW))


def test_a_flush_gives_the_rest_and_later_speech_begins_with_the_frame_after(session: LiveSession) -> None:
    session.push(voice(0.1))
    session.flush()
    session.flush()
    assert [frame.index for frame in session.frames()] == [0, 1, 2]
    again = said_by(session, [voice(0.3)])
    assert [frame.index for frame in again] == list(range(3, 11))
    np.testing.assert_array_equal(np.concatenate([frame.samples for frame in again])[:4800], voice(0.3))


def test_when_frames_are_pulled_does_not_matter_even_between_two_speeches(
    generator: Generator, portrait: Portrait
) -> None:
    with open_session(generator, portrait) as one, open_session(generator, portrait) as other:
        expected = said_by(one, [voice(0.3)]) + said_by(one, [voice(0.5)])
        other.push(voice(0.3))
        other.flush()
        other.push(voice(0.5))
        other.flush()
        np.testing.assert_array_equal(images(other.frames()), images(expected))


def test_idle_frames_come_whenever_there_is_no_speech(session: LiveSession) -> None:
    idle = [session.pull(idle=True) for _ in range(NEW + 1)]
    assert [frame.index for frame in idle if frame] == list(range(NEW + 1))
    assert not any(frame.samples.any() for frame in idle if frame)
    session.push(voice(0.2))
    frames = [session.pull(idle=True) for _ in range(NEW + 5)]
    sound = np.concatenate([frame.samples for frame in frames if frame])
    waited = (NEW - 1) * 640  # of the idle window that was begun
    np.testing.assert_array_equal(sound[waited : waited + 3200], voice(0.2))


def test_idle_frames_are_those_of_silence(generator: Generator, portrait: Portrait) -> None:
    unfiltered = {"config": GenerationConfig(steps=2, overlap=2, fps=25, median_filter=False)}
    with (
        open_session(generator, portrait, **unfiltered) as idle,
        open_session(generator, portrait, **unfiltered) as pushed,
    ):
        frames = [frame for frame in (idle.pull(idle=True) for _ in range(2 * NEW)) if frame]
        np.testing.assert_array_equal(images(frames), images(said_by(pushed, [np.zeros(640 * 2 * NEW, np.float32)])))


def test_silence_is_heard_as_nothing(session: LiveSession, backend: FakeBackend) -> None:
    said_by(session, [np.zeros(16000, np.float32)])
    assert not any(call["samples"].any() for call in backend.calls("audio_encoder"))
    assert not any(call["feature_rows"].any() for call in backend.calls("audio_projection"))


def test_after_speech_and_a_pause_nothing_of_it_is_heard(session: LiveSession, backend: FakeBackend) -> None:
    said_by(session, [voice(0.5), np.zeros(32000, np.float32)])
    assert backend.calls("audio_encoder")[1]["samples"].any()
    np.testing.assert_allclose(backend.calls("audio_encoder")[-1]["samples"], 0, atol=0.05)


# How windows go on


def test_the_overlap_is_held_to_the_frames_that_were_given_out(session: LiveSession, backend: FakeBackend) -> None:
    said_by(session, [voice(1)])
    calls = backend.calls("denoiser_cond")
    given = np.stack([call["latent"][0] for call in backend.calls("vae_decoder")])[1:]  # after the frame of the rest
    alpha = float(ALPHAS[int(calls[1]["timestep"][0])])
    windows = list(zip(calls[4::2], calls[5::2], strict=True))  # of two steps; after the rest and the first
    for number, (first, second) in enumerate(windows, start=1):
        noise = first["latents"][:2]  # before the first step there is no signal
        known = given[number * NEW - 2 : number * NEW]
        expected = alpha**0.5 * known + (1 - alpha) ** 0.5 * noise
        np.testing.assert_allclose(second["latents"][:2], expected, atol=1e-5)
    assert len(windows) == 4


@pytest.mark.parametrize("overlap", [0, 1, 7])
def test_any_overlap_will_do(generator: Generator, portrait: Portrait, overlap: int) -> None:
    config = GenerationConfig(steps=1, overlap=overlap, fps=25)
    with open_session(generator, portrait, config=config) as session:
        assert len(said_by(session, [voice(0.5)])) == 13


def test_the_session_begins_with_a_window_of_silence(session: LiveSession, backend: FakeBackend) -> None:
    assert len(backend.calls("denoiser_cond")) == 2
    assert not backend.calls("audio_encoder")[0]["samples"].any()
    assert backend.calls("vae_decoder") == []


# Interruptions


def test_an_interruption_drops_what_was_not_pulled_and_goes_on_from_there(
    session: LiveSession, backend: FakeBackend
) -> None:
    session.push(voice(2))
    for index in range(3):
        frame = session.pull()
        assert frame is not None
        assert frame.index == index
    session.interrupt()
    assert session.pull() is None
    assert session.lag == 0
    frames = said_by(session, [np.zeros(16000, np.float32)])
    assert [frame.index for frame in frames] == list(range(3, 28))
    assert not any(frame.samples.any() for frame in frames)
    assert len(backend.calls("reference_net")) == 1
    rest = [frame.image for frame in said_by(session, [np.zeros(16000, np.float32)])]
    assert abs(np.mean(rest[-NEW:]) - np.mean(images(frames[-NEW:]))) < 2


def test_frames_that_were_pulled_but_not_shown_can_be_taken_back(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait) as one, open_session(generator, portrait) as other:
        one.push(voice(0.6))
        one.flush()
        list(one.frames())
        one.interrupt(shown=5)
        other.push(voice(0.6))
        for _ in range(5):
            other.pull()
        other.interrupt()
        found, expected = said_by(one, [voice(0.4)]), said_by(other, [voice(0.4)])
    assert [frame.index for frame in found] == list(range(5, 15))
    np.testing.assert_array_equal(images(found), images(expected))


def test_only_what_was_pulled_and_is_kept_can_be_taken_back(session: LiveSession) -> None:
    said_by(session, [voice(1)])
    with pytest.raises(InputError, match="26 frames were shown; expected 12 to 25"):
        session.interrupt(shown=26)
    with pytest.raises(InputError, match=r"11 frames were shown; expected 12 to 25: .* more context"):
        session.interrupt(shown=11)
    session.interrupt(shown=12)
    with pytest.raises(InputError, match="expected 12 to 12"):
        session.interrupt(shown=11)
    assert [frame.index for frame in said_by(session, [voice(0.04)])] == [12]


def test_an_interruption_from_another_thread_ends_the_window_in_work(
    session: LiveSession, backend: FakeBackend
) -> None:
    engine = backend.engines["denoiser_cond"]
    compute, begun, go_on = engine._compute, threading.Event(), threading.Event()

    def slow(spec: Any, inputs: Any) -> Any:
        begun.set()
        assert go_on.wait(10)
        return compute(spec, inputs)

    session.push(voice(1))
    engine._compute = slow
    calls, got = len(engine.calls), []
    puller = threading.Thread(target=lambda: got.append(session.pull()))
    puller.start()
    assert begun.wait(10)
    session.interrupt()  # returns although a window is in work
    session.push(voice(0.1))
    go_on.set()
    puller.join(10)
    assert got == [None]
    assert len(engine.calls) == calls + 1
    session.flush()
    assert [frame.index for frame in session.frames()] == [0, 1, 2]


# Threads and waiting


def test_a_pull_waits_for_sound_from_another_thread(session: LiveSession) -> None:
    timer = threading.Timer(0.05, session.push, [voice(1)])
    timer.start()
    frame = session.pull(timeout=10)
    timer.join()
    assert frame is not None
    assert session.pull(timeout=0.0) is not None


def test_frames_are_the_same_if_one_thread_speaks_while_another_pulls(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait) as alone, open_session(generator, portrait) as session:
        expected = said_by(alone, [voice(1.2)])
        frames: list[LiveFrame] = []
        reader = threading.Thread(target=lambda: frames.extend(session.frames(timeout=10)))
        reader.start()
        for piece in np.array_split(voice(1.2), 60):
            session.push(piece)
        session.flush()
        while len(frames) < len(expected):
            threading.Event().wait(0.01)
        session.close()
        reader.join(10)
    np.testing.assert_array_equal(images(frames), images(expected))


def test_a_pull_gives_up_when_its_time_is_over(session: LiveSession) -> None:
    assert session.pull(timeout=0.01) is None


def test_whoever_waits_without_end_is_let_go_by_closing(session: LiveSession) -> None:
    frames: list[LiveFrame] = []
    reader = threading.Thread(target=lambda: frames.extend(session.frames(timeout=None)))
    reader.start()
    session.push(voice(0.4))
    session.flush()
    while len(frames) < 10:
        threading.Event().wait(0.01)
    session.close()
    reader.join(10)
    assert not reader.is_alive()
    assert [frame.index for frame in frames] == list(range(10))


def test_two_sessions_of_one_generator_do_not_disturb_each_other(generator: Generator, portrait: Portrait) -> None:
    with open_session(generator, portrait) as alone:
        expected = images(said_by(alone, [voice(0.5)]))
    with open_session(generator, portrait) as one, open_session(generator, generator.prepare(photo(x=20))) as other:
        frames = []
        for piece in np.array_split(voice(0.5), 7):
            one.push(piece)
            other.push(piece[::-1].copy())
            frames += [*one.frames()]
            list(other.frames())
        one.flush()
        frames += one.frames()
    np.testing.assert_array_equal(images(frames), expected)


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
            sizes.append((len(session._latents), session._sound.kept))
    assert len(set(sizes[20::5])) == 1
    assert max(size[0] for size in sizes) <= 13 + 2 + NEW


def test_speech_that_nobody_pulls_is_refused_before_it_fills_the_memory(
    generator: Generator, portrait: Portrait
) -> None:
    with open_session(generator, portrait, max_lag=2) as session:
        session.push(voice(1.5))
        assert session.lag == 1.5
        with pytest.raises(AudioError, match=r"2\.5 seconds .* expected at most max_lag, 2: pull frames first"):
            session.push(voice(1))
        assert session.lag == 1.5
        list(session.frames())
        assert session.lag == pytest.approx(1.5 - (5 * NEW - 1) / 25)
        session.push(voice(1))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 8), np.float32), r"shape \(2, 8\); expected a NumPy array \(n,\)"),
        ([0.0, 1.0], "audio samples of list"),
        (np.array([0, np.nan, 1], np.float32), "1 audio samples are NaN or infinite, the first at 1"),
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
        ({"sample_rate": 0}, AudioError, "a sample rate of 0"),
        ({"config": {"steps": 3}}, ConfigError, "expected a GenerationConfig"),
        ({"config": GenerationConfig(overlap=8)}, ConfigError, "overlap is 8"),
        ({"extension": "stretch"}, ConfigError, "extension is 'stretch'; expected .*hold"),
        ({"keypoints": track(4) - 500}, KeypointError, "wholly outside the picture"),
        ({"retarget": "naive_retarget"}, ConfigError, "there are no keypoints"),
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
        said_by(session, [voice(9 / 25)])
    rest, *windows = (call["drawings"] for call in backend.calls("pose_guider"))
    drawn = [draw_keypoints(points, 64, 64) for points in track(4)]
    np.testing.assert_array_equal(rest, np.stack([drawn[0]] * 8))
    np.testing.assert_array_equal(windows[0][2:], np.stack([drawn[frame] for frame in expected[:6]]))
    np.testing.assert_array_equal(windows[1][2:5], np.stack([drawn[frame] for frame in expected[6:]]))


def test_a_track_of_another_rate_keeps_its_pace(generator: Generator, portrait: Portrait, backend: FakeBackend) -> None:
    given = KeypointTrack(track(8), Fraction(50))
    with open_session(generator, portrait, keypoints=given, extension="hold") as session:
        said_by(session, [voice(5 / 25)])
    points = resample(given, Fraction(25)).points
    expected = np.stack([draw_keypoints(points[min(frame, 3)], 64, 64) for frame in range(6)])
    np.testing.assert_array_equal(backend.calls("pose_guider")[1]["drawings"][2:], expected)


def test_without_a_track_the_photos_face_is_held(
    session: LiveSession, portrait: Portrait, backend: FakeBackend
) -> None:
    said_by(session, [voice(0.3)])
    assert portrait.keypoints is not None
    (call,) = backend.calls("pose_guider")  # for all windows
    np.testing.assert_array_equal(call["drawings"], np.stack([draw_keypoints(portrait.keypoints, 64, 64)] * 8))


# Ends


def test_a_closed_session_says_so(session: LiveSession) -> None:
    session.push(voice(1))
    session.close()
    session.close()
    uses = [session.pull, session.flush, session.interrupt, session.frames, lambda: session.push(voice(0.1))]
    for use in uses:
        with pytest.raises(InputError, match="was closed: make a new one"):
            use()


def test_a_generator_that_was_closed_is_named(session: LiveSession, generator: Generator) -> None:
    session.push(voice(1))
    generator.close()
    with pytest.raises(BackendError, match="this Generator was closed"):
        session.pull()


def test_after_an_engines_failure_the_same_frames_can_be_asked_for_again(
    generator: Generator, portrait: Portrait, backend: FakeBackend
) -> None:
    with open_session(generator, portrait) as alone:
        expected = images(said_by(alone, [voice(0.5)]))
    with open_session(generator, portrait) as session:
        session.push(voice(0.5))
        session.flush()
        frames = [session.pull()]
        for name in ("vae_decoder", "denoiser_cond"):
            compute = backend.engines[name]._compute
            backend.engines[name]._compute = _fail
            coming = session.frames()
            with pytest.raises(BackendError, match="memory ran out"):
                frames.extend(coming)
            backend.engines[name]._compute = compute
        frames += list(session.frames())
    np.testing.assert_array_equal(images(f for f in frames if f), expected)


def _fail(spec: Any, inputs: Any) -> Any:
    raise BackendError("engine failed: memory ran out")


def test_time_is_exact_at_any_rate(generator: Generator, portrait: Portrait) -> None:
    config = GenerationConfig(steps=1, overlap=2, fps=29.97, guidance_scale=1)
    with open_session(generator, portrait, config=config) as session:
        frames = said_by(session, [voice(0.4)])
        assert session.fps == Fraction(30000, 1001)
    assert frames[7].time == Fraction(7 * 1001, 30000)
