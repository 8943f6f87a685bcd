"""Videos for coroutines: the same frames, an event loop that is never blocked, and work that ends with its task."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from tests.doubles.fakes import FakeBackend, FakeEngine
from tests.support.scenes import FAST, collect, frames_of, photo, speech
from vexpress_rt import AsyncFrameStream, BackendError, CancelledError, Generator, ImageError, InputError, Portrait
from vexpress_rt.pipeline.async_frame_stream import READ_AHEAD

CALL = 0.03  # seconds that a slow engine takes


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make every engine call take CALL seconds; return the times at which calls end."""
    ends, run = list[float](), FakeEngine.run

    def slowly(engine: FakeEngine, *given: Any, **more: Any) -> Any:
        time.sleep(CALL)
        ends.append(time.monotonic())
        return run(engine, *given, **more)

    monkeypatch.setattr(FakeEngine, "run", slowly)
    return ends


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine, and check that no thread of the package is left."""
    try:
        return asyncio.run(work)
    finally:
        gc.collect()
        wait_until(lambda: not our_threads())


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vexpress_rt")]


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, our_threads()
        time.sleep(0.001)


async def all_frames(stream: AsyncFrameStream) -> np.ndarray:
    async with stream:
        return np.stack([frame async for frame in stream])


def test_frames_videos_and_portraits_equal_those_of_the_methods_that_block(
    generator: Generator, portrait: Portrait
) -> None:
    async def work() -> None:
        stream = generator.astream(photo(), speech(), config=FAST)
        with pytest.raises(InputError, match="opened by `async with`, or by its first frame"):
            stream.length  # noqa: B018
        found = await all_frames(stream)
        np.testing.assert_array_equal(found, collect(generator.stream(photo(), speech(), config=FAST)))
        assert (stream.done, stream.length, stream.fps, stream.time) == (9, 9, 30, 8 / stream.fps)
        assert stream.notes == ()
        assert stream.timings["total"] > 0
        assert len(stream.keypoints) == 9
        assert not stream.cancelled
        video = await generator.agenerate(photo(), speech(), config=FAST)
        np.testing.assert_array_equal(frames_of(video), found)
        prepared = await generator.aprepare(photo())
        np.testing.assert_array_equal(prepared.image, portrait.image)

    run(work())


def test_the_event_loop_runs_on_beside_four_streams(
    generator: Generator, portrait: Portrait, slow: list[float]
) -> None:
    pauses = []

    async def watch() -> None:
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0.001)
            pauses.append(time.perf_counter() - begin - 0.001)

    async def work() -> None:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(all_frames(generator.astream(portrait, speech(), config=FAST)) for _ in range(4)))
        watching.cancel()

    run(work())
    assert len(slow) > 4 * 15
    assert np.percentile(pauses, 99) < 0.02


def test_at_most_two_frames_are_computed_ahead(generator: Generator, portrait: Portrait, backend: FakeBackend) -> None:
    async def work() -> None:
        async with generator.astream(portrait, speech(1), config=FAST) as stream:
            await anext(stream)
            inner = stream._thread.value
            while inner.done < 1 + READ_AHEAD:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            assert inner.done == 1 + READ_AHEAD
            assert stream.done == 1

    run(work())


@pytest.mark.parametrize("moment", [0.5, 2.5, 12.5])  # engine calls: while it is opened, and while frames are made
def test_a_cancelled_task_ends_after_the_engine_call_without_blocking_the_loop(
    generator: Generator, portrait: Portrait, slow: list[float], tmp_path: Path, moment: float
) -> None:
    async def streaming() -> None:
        await all_frames(generator.astream(photo(), speech(), config=FAST))

    async def generating() -> None:
        await generator.agenerate(photo(), speech(), config=FAST, output=tmp_path / "out.mp4")

    async def work() -> None:
        for function in (streaming, generating):
            task = asyncio.create_task(function())
            await asyncio.sleep(moment * CALL)
            begin, calls = time.monotonic(), len(slow)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()  # again, while it waits for the end of the call
            assert time.monotonic() - begin < 0.2 * CALL
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - begin < 1.9 * CALL
            assert len(slow) <= calls + 1
        assert list(tmp_path.iterdir()) == []

    run(work())


def test_a_stream_that_is_left_early_ends_its_work(generator: Generator, portrait: Portrait, slow: list[float]) -> None:
    async def work() -> None:
        stream = generator.astream(portrait, speech(2), config=FAST)
        async with stream:
            async for _ in stream:
                break
        calls = len(slow)
        await asyncio.sleep(2 * CALL)
        assert len(slow) == calls
        assert stream.cancelled
        assert [frame async for frame in stream] == []
        await stream.aclose()
        with pytest.raises(InputError, match="was closed"):
            await stream.__aenter__()

    run(work())


def test_a_stream_that_is_dropped_ends_its_work(generator: Generator, portrait: Portrait, slow: list[float]) -> None:
    async def work() -> None:
        async for _ in generator.astream(portrait, speech(2), config=FAST):
            break
        gc.collect()
        await asyncio.sleep(2 * CALL)
        calls = len(slow)
        await asyncio.sleep(2 * CALL)
        assert len(slow) == calls

    run(work())


def test_cancel_from_another_task_ends_the_frames(generator: Generator, portrait: Portrait, slow: list[float]) -> None:
    async def work() -> None:
        async with generator.astream(portrait, speech(2), config=FAST) as stream:
            waiting = asyncio.create_task(anext(stream, None))
            await asyncio.sleep(CALL / 2)
            stream.cancel()
            assert await waiting is None
            assert stream.cancelled
            assert stream.done == 0

    run(work())


def test_errors_and_tokens_pass_through(
    generator: Generator, portrait: Portrait, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = Event()
    cancel.set()

    def fail(*given: Any) -> None:
        raise BackendError("memory ran out")

    async def work() -> None:
        for awaitable in (
            generator.astream("missing.png", speech()).__aenter__(),
            generator.agenerate("missing.png", speech()),
            generator.aprepare("missing.png"),
        ):
            with pytest.raises(ImageError, match=r"missing\.png"):
                await awaitable
        with pytest.raises(CancelledError):
            await generator.agenerate(portrait, speech(), cancel=cancel)
        stream = generator.astream(portrait, speech(1), config=FAST)
        await anext(stream)
        monkeypatch.setattr(backend.engines["vae_decoder"], "_compute", fail)
        with pytest.raises(BackendError, match="memory ran out"):
            [frame async for frame in stream]
        assert [frame async for frame in stream] == []

    run(work())
