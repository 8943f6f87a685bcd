"""The end of streams: every end frees their memory; interleaved streams, threads, and bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.fakes import FakeBackend
from tests.support.scenes import FAST, RATE, collect, frames_of, photo, speech
from tests.support.sound_files import write_wav
from vexpress_rt import FrameStream, GenerationConfig, Generator
from vexpress_rt.diffusion.latents import HostLatents
from vexpress_rt.errors import BackendError, ConfigError, InputError
from vexpress_rt.pipeline import device_operations
from vexpress_rt.pipeline import runner as pipeline
from vexpress_rt.stages.audio_encoder import AudioFeatureStream


class StopError(Exception):
    """An exception of the caller's callback."""


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return the number of open latents and recordings."""
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

    monkeypatch.setattr(device_operations, "HostLatents", counted("latents", HostLatents))
    monkeypatch.setattr(pipeline, "AudioFeatureStream", counted("recordings", AudioFeatureStream))
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


def test_stop_iteration_from_progress_is_no_end_of_the_frames(generator: Generator, held: Counter[str]) -> None:
    """Nor is half a video given by `generate`."""

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("frames", 3):
            raise StopIteration

    stream = generator.stream(photo(), speech(0.6), config=FAST, progress=stop)
    for end in (lambda: list(stream), lambda: generator.generate(photo(), speech(0.6), config=FAST, progress=stop)):
        with pytest.raises(RuntimeError, match="progress raised StopIteration at frames 3 of 18"):
            end()
    assert (stream.done, held["latents"], held["recordings"]) == (2, 0, 0)


@pytest.mark.parametrize(("stage", "done", "given"), [("audio", 1, 0), ("denoise", 2, 0), ("frames", 3, 2)])
def test_progress_may_close_its_stream_which_ends_after_the_step(
    generator: Generator, held: Counter[str], stage: str, done: int, given: int
) -> None:
    reports: list[tuple[str, int]] = []

    def close(*what: Any) -> None:
        reports.append(what[:2])
        if what[:2] == (stage, done):
            stream.close()
            stream.close()

    stream = generator.stream(photo(), speech(0.6), config=FAST, progress=close)
    assert len(list(stream)) == stream.done == given
    assert reports[-1] == (stage, done)
    assert (held["latents"], held["recordings"]) == (0, 0)
    assert stream.timings == stream.timings
    assert list(stream) == []


@pytest.mark.parametrize("stage", ["denoise", "frames"])
def test_progress_cannot_ask_for_the_next_frame(generator: Generator, stage: str) -> None:
    expected = collect(generator.stream(photo(), speech(), config=FAST))
    refused = 0

    def ask(*what: Any) -> None:
        nonlocal refused
        if what[0] == stage:
            with pytest.raises(InputError, match="expected one at a time: request it after `progress` has returned"):
                next(stream)
            refused += 1

    stream = generator.stream(photo(), speech(), config=FAST, progress=ask)
    np.testing.assert_array_equal(list(stream), expected)
    assert refused > 0


@pytest.mark.parametrize("progress", [5, 0, False, "tell"])
def test_progress_that_cannot_be_called_is_refused_at_once(
    generator: Generator, fake_bundle: Path, backend: FakeBackend, progress: Any
) -> None:
    for call in (generator.stream, generator.generate):
        with pytest.raises(ConfigError, match=f"^progress is {progress!r}; expected a function of stage, done"):
            call(photo(), speech(), progress=progress)
    with pytest.raises(ConfigError, match=f"^progress is {progress!r}"):
        Generator(fake_bundle, progress=progress)
    assert backend.calls("denoiser") == []


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
        def __init__(self, ring: Any, shape: tuple[int, ...], state_size: int) -> None:
            slots.append(ring.slots)
            super().__init__(ring, shape, state_size)

    monkeypatch.setattr(device_operations, "HostLatents", Watched)
    for seconds in (2, 20):
        with generator.stream(photo(), speech(seconds), config=GenerationConfig(steps=3, overlap=2)) as stream:
            next(stream)
    assert slots[0] == slots[1] < 60
