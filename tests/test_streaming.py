"""Frames while the video is being made: those of the whole video, early, by turns, and freed whenever that is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import FakeBackend, write_bundle
from tests.scenes import FAST, frames_of, photo, speech, track
from tests.test_audio import write_wav
from vexpress_rt import FrameStream, GenerationConfig, Generator, pipeline, placement
from vexpress_rt.config import PRESETS
from vexpress_rt.errors import (
    AudioError,
    BackendError,
    ConfigError,
    ImageError,
    InputError,
    KeypointError,
    VExpressError,
)
from vexpress_rt.hearing import Hearing
from vexpress_rt.latents import HostLatents
from vexpress_rt.specs import VideoShape

FRAMES = 5  # of a window; odd, so that no overlap halves it
RATE = 16000


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Generator, FakeBackend]]:
    """A generator of windows of five frames, and the fakes that it runs on."""
    fake = FakeBackend()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vexpress_rt.providers.onnxruntime", fake)
        folder = write_bundle(tmp_path_factory.mktemp("five") / "bundle", shape=VideoShape(64, 64, FRAMES))
        with Generator(folder) as made:
            yield made, fake


def sound(frames: int) -> tuple[np.ndarray, int]:
    """Speech of exactly so many frames at 30 a second."""
    return speech(frames / 30)


def collect(stream: FrameStream) -> np.ndarray:
    with stream:
        return np.stack(list(stream))


# The same frames


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=20)
@given(st.data(), st.integers(0, FRAMES - 1), st.integers(1, 4), st.booleans(), st.integers(0, 3))
def test_a_stream_gives_the_frames_of_the_step_by_step_order(
    five: tuple[Generator, FakeBackend], preset: str, data: st.DataObject, overlap: int, steps: int, filtered: bool,
    seed: int,
) -> None:  # fmt: skip
    generator, fake = five
    length = data.draw(st.integers(1, FRAMES + 4 * (FRAMES - overlap)), "length")  # one frame to five windows
    options = {"overlap": overlap, "steps": steps, "median_filter": filtered, "seed": seed, "preset": preset}
    config, portrait = GenerationConfig(**options), generator.prepare(photo())
    whole = generator.generate(portrait, sound(length), keypoints=track(3), config=config, schedule="breadth")
    streamed = collect(generator.stream(portrait, sound(length), keypoints=track(3), config=config))
    np.testing.assert_array_equal(streamed, frames_of(whole))
    assert len(streamed) == length
    for engine in fake.engines.values():
        engine.calls.clear()


def test_generate_takes_its_frames_from_the_wavefront_too(generator: Generator, backend: FakeBackend) -> None:
    streamed = collect(generator.stream(photo(), speech(0.6), config=FAST))
    before = len(backend.calls("denoiser"))
    np.testing.assert_array_equal(frames_of(generator.generate(photo(), speech(0.6), config=FAST)), streamed)
    times = [float(call["timestep"][0]) for call in backend.calls("denoiser")]
    assert times[:before] == times[before:] == [999, 999, 499, 999, 499, 499]


def test_a_stream_may_take_the_step_by_step_order_itself(generator: Generator, backend: FakeBackend) -> None:
    collect(generator.stream(photo(), speech(0.6), config=FAST, schedule="breadth"))
    assert [float(call["timestep"][0]) for call in backend.calls("denoiser")] == [999, 999, 999, 499, 499, 499]


# What a stream tells


def test_a_stream_knows_its_video_from_the_start(generator: Generator) -> None:
    config = GenerationConfig(steps=1, overlap=2, fps=29.97)
    with generator.stream(photo(), speech(0.6), keypoints=track(4), config=config) as stream:
        whole = generator.generate(photo(), speech(0.6), keypoints=track(4), config=config)
        assert (stream.fps, stream.length, stream.notes) == (whole.fps, whole.length, whole.notes)
        assert stream.fps == Fraction(30000, 1001)
        np.testing.assert_array_equal(stream.keypoints, whole.keypoints)


def test_a_stream_counts_its_frames_and_tells_when_each_is_shown(generator: Generator) -> None:
    with generator.stream(photo(), speech(0.3), config=FAST) as stream:
        assert (stream.done, stream.time) == (0, 0)
        told = [(stream.done, stream.time) for _ in stream]
    assert told == [(done, Fraction(done - 1, 30)) for done in range(1, 10)]
    assert stream.done == 9


def test_frames_are_the_callers(generator: Generator) -> None:
    expected = frames_of(generator.generate(photo(), speech(0.3), config=FAST))
    frames = []
    for index, frame in enumerate(generator.stream(photo(), speech(0.3), config=FAST)):
        np.testing.assert_array_equal(frame, expected[index])
        frame[:] = 0
        frames.append(frame)
    assert len({id(frame) for frame in frames}) == 9


def test_seconds_are_told_so_far_and_stand_still_at_the_end(generator: Generator) -> None:
    stream = generator.stream(photo(), speech(0.6), config=FAST)
    assert set(stream.timings) == {"load", "audio", "denoise", "portrait", "keypoints", "total"}
    next(stream)
    first = stream.timings
    assert {"decode", "median"} <= set(first)
    assert stream.timings["total"] > first["total"]
    stream.close()
    assert stream.timings == stream.timings
    assert stream.timings["total"] > first["total"]


# Early, and no more than is needed


def test_nothing_is_computed_before_a_frame_is_asked_for(generator: Generator, backend: FakeBackend) -> None:
    with generator.stream(photo(), speech(), config=FAST):
        assert "denoiser" in backend.loads
        for engine in ("audio_encoder", "audio_projection", "pose_guider", "denoiser", "vae_decoder"):
            assert backend.calls(engine) == []


@pytest.mark.parametrize("overlap", [0, 2, 4, 5])
def test_windows_begin_as_frames_need_them(generator: Generator, backend: FakeBackend, overlap: int) -> None:
    """Up to half a window of overlap, steps + 1 windows are alive at most; above, a window leans on two each side."""
    steps, stride = 3, 8 - overlap
    config = GenerationConfig(steps=steps, overlap=overlap, median_filter=False)
    reach = 1 if overlap <= 4 else 2
    with generator.stream(photo(), speech(3), config=config) as stream:
        for _ in stream:
            ended = (stream.done - 1) // stride
            begun = len(backend.calls("audio_projection"))
            assert len(backend.calls("pose_guider")) == begun
            assert begun - ended <= reach * (steps - 1) + 2
    assert len(backend.calls("denoiser")) == steps * begun


def test_the_first_frame_of_a_long_video_takes_as_many_calls_as_of_a_short_one(
    generator: Generator, backend: FakeBackend
) -> None:
    config, calls = GenerationConfig(steps=4, overlap=2), []
    for seconds in (2, 20):
        before = len(backend.calls("denoiser"))
        with generator.stream(photo(), speech(seconds), config=config) as stream:
            next(stream)
        calls.append(len(backend.calls("denoiser")) - before)
    assert calls == [10, 10]  # 4 + 3 + 2 + 1 steps of the first four windows


# Errors


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"portrait": b"no picture"}, ImageError),
        ({"audio": "nowhere.wav"}, AudioError),
        ({"audio": (np.zeros(0, np.float32), RATE)}, AudioError),
        ({"keypoints": np.zeros((0, 3, 2))}, KeypointError),
        ({"retarget": "naive_retarget"}, ConfigError),
        ({"config": {"steps": 3}}, ConfigError),
        ({"config": GenerationConfig(overlap=8)}, ConfigError),
        ({"noise": "pink"}, ConfigError),
        ({"noise": np.zeros((1, 4, 2, 8, 8), np.float32)}, InputError),
        ({"schedule": "depth"}, ConfigError),
    ],
)
def test_what_cannot_be_done_is_told_in_the_call(
    generator: Generator, backend: FakeBackend, changes: dict[str, Any], error: type[VExpressError]
) -> None:
    with pytest.raises(error):
        generator.stream(**{"portrait": photo(), "audio": speech(), **changes})
    assert backend.calls("denoiser") == []


class StopError(Exception):
    """What a caller's callback raises."""


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many latents and recordings are open."""
    count: Counter[str] = Counter()

    def counted(kind: str, parent: type) -> type:
        class Counted(parent):  # type: ignore[misc, valid-type]
            def __init__(self, *given: Any, **more: Any) -> None:
                super().__init__(*given, **more)
                count[kind] += 1
                count[f"{kind} so far"] += 1

            def close(self) -> None:
                super().close()
                count[kind] -= 1

        return Counted

    monkeypatch.setattr(placement, "HostLatents", counted("latents", HostLatents))
    monkeypatch.setattr(pipeline, "Hearing", counted("recordings", Hearing))
    return count


def end_by_closing(stream: FrameStream) -> None:
    next(stream)
    stream.close()
    stream.close()


def end_by_block(stream: FrameStream) -> None:
    def leave() -> None:
        with stream:
            next(stream)
            raise StopError

    with pytest.raises(StopError):
        leave()


def end_by_reading(stream: FrameStream) -> None:
    assert len(list(stream)) == 18


def end_by_forgetting(stream: FrameStream) -> None:
    next(stream)


@pytest.mark.parametrize("end", [end_by_closing, end_by_block, end_by_reading, end_by_forgetting])
def test_whatever_ends_a_stream_frees_what_it_held(
    generator: Generator, held: Counter[str], tmp_path: Path, end: Callable[[FrameStream], None]
) -> None:
    path = write_wav(tmp_path / "speech.wav", speech(0.6)[0][None], RATE)
    stream = generator.stream(photo(), path, config=FAST)
    end(stream)
    del stream
    assert held == {"latents": 0, "recordings": 0, "latents so far": 1, "recordings so far": 1}
    assert len(collect(generator.stream(photo(), path, config=FAST))) == 18


@pytest.mark.parametrize(("stage", "done"), [("audio", 1), ("denoise", 2), ("frames", 3)])
def test_what_progress_raises_comes_out_of_the_stream_and_ends_it(
    generator: Generator, held: Counter[str], stage: str, done: int
) -> None:
    def stop(*what: Any) -> None:
        if what[:2] == (stage, done):
            raise StopError

    stream = generator.stream(photo(), speech(0.6), config=FAST, progress=stop)
    with pytest.raises(StopError):
        list(stream)
    assert (held["latents"], held["recordings"]) == (0, 0)
    assert list(stream) == []


def test_an_engine_that_fails_ends_the_stream_and_no_other(
    generator: Generator, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = frames_of(generator.generate(photo(), speech(0.6), config=FAST))
    failing, other = (generator.stream(photo(), speech(0.6), config=FAST) for _ in range(2))
    next(failing)
    first = next(other)

    def fail(*given: Any) -> None:
        raise BackendError("memory ran out")

    with monkeypatch.context() as patch:
        patch.setattr(backend.engines["vae_decoder"], "_compute", fail)
        with pytest.raises(BackendError, match="memory ran out"):
            list(failing)
    assert list(failing) == []
    np.testing.assert_array_equal([first, *other], expected)


def test_a_closed_stream_has_no_more_frames(generator: Generator) -> None:
    stream = generator.stream(photo(), speech(), config=FAST)
    stream.close()
    assert list(stream) == []
    assert (stream.done, stream.length) == (0, 9)


def test_a_stream_of_a_closed_generator_says_so(fake_bundle: Path, backend: FakeBackend) -> None:
    with Generator(fake_bundle) as generator:
        stream = generator.stream(photo(), speech(), config=FAST)
    with pytest.raises(BackendError, match="this Generator was closed"):
        next(stream)


# Several


def test_streams_that_take_turns_give_what_they_give_alone(generator: Generator) -> None:
    def open_stream(seed: int) -> FrameStream:
        config = GenerationConfig(steps=3, overlap=3, seed=seed)
        return generator.stream(photo(x=24 + 2 * seed), speech(0.3 + seed / 10), config=config)

    alone = [collect(open_stream(seed)) for seed in range(3)]
    open_at_once, given = {seed: open_stream(seed) for seed in range(3)}, {seed: [] for seed in range(3)}  # type: ignore[var-annotated]
    while open_at_once:
        for seed, stream in list(open_at_once.items()):
            frame = next(stream, None)
            if frame is None:
                del open_at_once[seed]
            else:
                given[seed].append(frame)
    for seed in range(3):
        np.testing.assert_array_equal(given[seed], alone[seed])


def test_threads_that_share_a_stream_get_every_frame_once(generator: Generator) -> None:
    expected = collect(generator.stream(photo(), speech(1), config=FAST))
    with generator.stream(photo(), speech(1), config=FAST) as stream, ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(lambda _: list(stream), range(4)))
    found = Counter(frame.tobytes() for share in shares for frame in share)
    assert found == Counter(frame.tobytes() for frame in expected)


def test_memory_of_frames_in_flight_is_that_of_a_short_video(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = []

    class Watched(HostLatents):
        def __init__(self, flight: Any, shape: tuple[int, ...]) -> None:
            slots.append(flight.slots)
            super().__init__(flight, shape)

    monkeypatch.setattr(placement, "HostLatents", Watched)
    for seconds in (2, 20):
        with generator.stream(photo(), speech(seconds), config=GenerationConfig(steps=3, overlap=2)) as stream:
            next(stream)
    assert slots[0] == slots[1] < 60
