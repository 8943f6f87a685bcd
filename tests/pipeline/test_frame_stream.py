"""Streams: the frames of the whole video, early, from interleaved streams, with memory freed on close."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles.fakes import FakeBackend, write_bundle
from tests.support.scenes import FAST, RATE, collect, frames_of, photo, speech, track
from vexpress_rt import GenerationConfig, Generator
from vexpress_rt.bundle.engine_spec import VideoShape
from vexpress_rt.config import PRESETS, SAMPLERS, WINDOW_ORDERS
from vexpress_rt.errors import (
    AudioError,
    ConfigError,
    ImageError,
    InputError,
    KeypointError,
    VExpressError,
)

FRAMES = 5  # of a window; odd, so that no overlap halves it


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Generator, FakeBackend]]:
    """A generator with windows of five frames, and its fake backend."""
    fake = FakeBackend()
    with pytest.MonkeyPatch.context() as patch:
        fake.install(patch)
        folder = write_bundle(tmp_path_factory.mktemp("five") / "bundle", shape=VideoShape(64, 64, FRAMES))
        with Generator(folder) as made:
            yield made, fake


def sound(frames: int) -> tuple[np.ndarray, int]:
    """Return speech of exactly `frames` frames at 30 frames a second."""
    return speech(frames / 30)


# The same frames


@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize("overlap", [1, 2])
def test_real_engines_give_the_same_bits_in_both_orders(micro_bundle: Path, overlap: int, share_weights: bool) -> None:
    config = GenerationConfig(steps=3, overlap=overlap, guidance_interval=(0, 0.7), fps=30)
    with Generator(micro_bundle, provider="cpu", threads=2, share_weights=share_weights) as generator:
        early, late = (
            collect(
                generator.stream(photo(), sound(11), keypoints=track(11) / 8, config=config, window_order=window_order)
            )
            for window_order in WINDOW_ORDERS
        )
    assert len(np.unique(early)) > 50
    assert np.array_equal(early, late)


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=20)
@given(st.data(), st.integers(0, FRAMES - 1), st.integers(0, 4), st.booleans(), st.integers(0, 3))
def test_a_stream_gives_the_frames_of_the_step_by_step_order(
    five: tuple[Generator, FakeBackend], preset: str, data: st.DataObject, overlap: int, steps: int, filtered: bool,
    seed: int,
) -> None:  # fmt: skip
    generator, fake = five
    length = data.draw(st.integers(1, FRAMES + 4 * (FRAMES - overlap)), "length")  # one frame to five windows
    options = {"overlap": overlap, "median_filter": filtered, "seed": seed, "preset": preset}
    if steps:
        every = data.draw(st.integers(1, 3), "uncond_interval")
        sampler = data.draw(st.sampled_from(SAMPLERS), "sampler")
        options |= {"steps": steps, "sampler": sampler, "uncond_interval": every, "guidance_interval": (0.2, 0.8)}
    config, portrait = GenerationConfig(**options), generator.prepare(photo())
    whole = generator.generate(portrait, sound(length), keypoints=track(3), config=config, window_order="step_major")
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
    collect(generator.stream(photo(), speech(0.6), config=FAST, window_order="step_major"))
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
        reports = [(stream.done, stream.time) for _ in stream]
    assert reports == [(done, Fraction(done - 1, 30)) for done in range(1, 10)]
    assert stream.done == 9


def test_frames_are_the_callers(generator: Generator) -> None:
    expected = frames_of(generator.generate(photo(), speech(0.3), config=FAST))
    frames = []
    for index, frame in enumerate(generator.stream(photo(), speech(0.3), config=FAST)):
        np.testing.assert_array_equal(frame, expected[index])
        frame[:] = 0
        frames.append(frame)
    assert len({id(frame) for frame in frames}) == 9


def test_seconds_are_reported_so_far_and_stand_still_at_the_end(generator: Generator) -> None:
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
        ({"window_order": "depth"}, ConfigError),
        ({"window_order": "breadth"}, ConfigError),
        ({"schedule": "wavefront"}, ConfigError),
    ],
)
def test_what_cannot_be_done_is_reported_in_the_call(
    generator: Generator, backend: FakeBackend, changes: dict[str, Any], error: type[VExpressError]
) -> None:
    with pytest.raises(error):
        generator.stream(**{"portrait": photo(), "audio": speech(), **changes})
    assert backend.calls("denoiser") == []


@pytest.mark.parametrize("method", ["stream", "generate"])
def test_former_names_are_refused_with_the_new_ones(generator: Generator, method: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^the argument schedule is called window_order now: pass window_order=\.\.\.$"
    ):
        getattr(generator, method)(photo(), speech(), schedule="wavefront")
    with pytest.raises(ConfigError, match="one of wavefront, step_major: breadth is called step_major now"):
        getattr(generator, method)(photo(), speech(), window_order="breadth")
    with pytest.raises(TypeError, match="unexpected keyword argument 'scheduled'"):
        getattr(generator, method)(photo(), speech(), scheduled="wavefront")
