"""Live sessions for coroutines: the frames of `LiveSession`, waits that can be cancelled, and no thread left."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from tests.doubles.fakes import FakeBackend, FakeEngine
from tests.support.live_sessions import CONFIG, NEW, images, open_session, push_all, voice
from vexpress_rt import AsyncLiveSession, BackendError, Generator, ImageError, InputError, LiveFrame, Portrait
from vexpress_rt.live.async_session import _SHORT

CALL = 0.02  # seconds that a slow engine takes
Open = Callable[[], AsyncLiveSession]


@pytest.fixture
def opened(generator: Generator, portrait: Portrait) -> Open:
    return lambda: generator.alive(portrait, config=CONFIG, look_ahead=0.08, context=0.5)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine, and check that no thread of the package is left."""
    result = asyncio.run(work)
    gc.collect()
    end = time.monotonic() + 5
    while any(thread.name.startswith("vexpress_rt") for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.001)
    return result


def slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    run_engine = FakeEngine.run

    def slowly(engine: FakeEngine, *given: Any, **more: Any) -> Any:
        time.sleep(CALL)
        return run_engine(engine, *given, **more)

    monkeypatch.setattr(FakeEngine, "run", slowly)


def test_frames_are_those_of_a_session_that_blocks(generator: Generator, portrait: Portrait, opened: Open) -> None:
    pieces = np.split(voice(1.5), [1000, 9000, 10000])
    assert max(map(len, pieces)) > _SHORT > min(map(len, pieces))

    async def work() -> list[LiveFrame]:
        frames = []
        async with opened() as session:
            assert (session.fps, session.sample_rate, session.lag) == (25, 16000, 0)
            assert session.notes == session.session.notes
            for piece in pieces:
                await session.push(piece)
                frames += [frame async for frame in session.frames()]
            await session.flush()
            frames += [frame async for frame in session.frames()]
            assert await session.pull() is None
        return frames

    expected = push_all(open_session(generator, portrait), pieces)
    found = run(work())
    np.testing.assert_array_equal(images(found), images(expected))
    np.testing.assert_array_equal([f.samples for f in found], [f.samples for f in expected])


def test_sound_that_is_pushed_wakes_a_pull_that_waits(opened: Open) -> None:
    async def work() -> None:
        async with opened() as session:
            waiting = asyncio.create_task(session.pull(None))
            await asyncio.sleep(0.06)
            assert not waiting.done()
            await session.push(voice(1))
            frame = await asyncio.wait_for(waiting, 5)
            assert frame is not None
            assert frame.index == 0
            await session.interrupt(0)
            again = await session.pull(0.01, idle=True)
            assert again is not None
            assert again.index == 0

    run(work())


def test_a_pull_that_is_cancelled_leaves_the_session_as_it_was(
    opened: Open, generator: Generator, portrait: Portrait, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = push_all(open_session(generator, portrait), [voice(1)])

    async def work() -> list[LiveFrame]:
        async with opened() as session:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.pull(None), 0.01)
            await session.push(voice(1))
            with monkeypatch.context() as patch:
                slow_down(patch)
                for calls in (0.5, 1.5, 2.5):  # in a window
                    pulling = asyncio.create_task(session.pull())
                    await asyncio.sleep(calls * CALL)
                    pulling.cancel()
                    begin = time.monotonic()
                    with pytest.raises(asyncio.CancelledError):
                        await pulling
                    assert time.monotonic() - begin < 1.9 * CALL
            await session.flush()
            return [frame async for frame in session.frames()]

    np.testing.assert_array_equal(images(run(work())), images(expected))


def test_closing_ends_a_pull_and_an_iteration(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with opened() as session:
            pulling = asyncio.create_task(session.pull(None))
            await asyncio.sleep(0.01)
            await session.close()
            assert await pulling is None
            await session.close()
            assert [frame async for frame in session.frames(None)] == []
            for method in (session.pull, session.flush, session.interrupt, lambda: session.push(voice(0.1))):
                with pytest.raises(InputError, match="closed"):
                    await method()
        with pytest.raises(InputError, match="closed"):
            await session.__aenter__()

    run(work())


def test_sessions_that_are_dropped_or_cancelled_while_they_open_end(
    opened: Open, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(monkeypatch)

    async def work() -> None:
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(CALL / 2), opened():
                raise AssertionError("it cannot be open yet")
        assert time.monotonic() - begin < 2.5 * CALL
        await opened().__aenter__()  # and dropped

    run(work())


def test_errors_pass_through(opened: Open, generator: Generator, backend: FakeBackend) -> None:
    def fail(*given: Any) -> None:
        raise BackendError("memory ran out")

    async def work() -> None:
        with pytest.raises(ImageError, match=r"missing\.png"):
            await generator.alive("missing.png").__aenter__()
        async with opened() as session:
            backend.engines["vae_decoder"]._compute = fail  # type: ignore[assignment]
            await session.push(voice(1))
            with pytest.raises(BackendError, match="memory ran out"):
                await session.pull()
            with pytest.raises(TypeError, match=r"an AsyncLiveSession cannot be pickled or copied.+: send its frames"):
                pickle.dumps(session)

    assert NEW == 6
    run(work())
