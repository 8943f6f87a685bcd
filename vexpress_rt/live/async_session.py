"""A live session for coroutines: `AsyncLiveSession`."""

from __future__ import annotations

import time
import weakref
from collections.abc import AsyncIterator, Callable
from fractions import Fraction
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import CancelledError
from vexpress_rt.live.frame import LiveFrame
from vexpress_rt.live.session import LiveSession
from vexpress_rt.live.session_config import check_timeout
from vexpress_rt.utils.async_thread import AsyncThread, run_in_thread
from vexpress_rt.utils.cancellation import POLL, check_cancelled
from vexpress_rt.utils.process_bound import refuse_pickling

_SHORT = 1 << 13  # samples; longer pieces of sound take milliseconds to resample, and are pushed by another thread


class AsyncLiveSession:
    """A live session whose methods are coroutines: the result of `Generator.alive`.

        async with generator.alive(portrait) as session:
            await session.push(samples)
            async for frame in session.frames():
                await send(frame.image, frame.samples)

    Sound, utterances and frames are those of `LiveSession`. Frames are made in one thread, which belongs to the
    session; the event loop never waits for it. `push`, `flush` and `interrupt` do not wait while a frame is made.
    `async with` opens the session.

    Concurrent pulls wait for each other. A task that is cancelled in `pull` or `frames` ends at most one engine call
    later; the session stays open, and the next pull makes the frame again.
    """

    def __init__(self, open_session: Callable[[], LiveSession]) -> None:
        self._thread = AsyncThread("vexpress_rt_live", open_session, LiveSession.close)
        weakref.finalize(self, self._thread.end)

    @property
    def session(self) -> LiveSession:
        """The session itself. Its attributes may be read in the event loop; its `pull` and `frames` compute."""
        return self._thread.value

    @property
    def fps(self) -> Fraction:
        """Frames per second, exact."""
        return self.session.fps

    @property
    def sample_rate(self) -> int:
        """Hz of the sound that frames carry."""
        return self.session.sample_rate

    @property
    def notes(self) -> tuple[str, ...]:
        """Repairs of photo and keypoints, and choices left to the generator."""
        return self.session.notes

    @property
    def lag(self) -> float:
        """As `LiveSession.lag`."""
        return self.session.lag

    @property
    def delay(self) -> float:
        """As `LiveSession.delay`."""
        return self.session.delay

    @property
    def realtime_factor(self) -> float | None:
        """As `LiveSession.realtime_factor`."""
        return self.session.realtime_factor

    async def push(self, samples: NDArray[Any], rate: int | None = None) -> None:
        """Append speech: see `LiveSession.push`.

        Pieces that are pushed at the same time by several tasks have no order.

        Args:
            samples: (n,), mono, float32 or int16, as in `LiveSession.push`.
            rate: Integer Hz; None for the session's rate.

        Raises:
            AudioError: As `LiveSession.push`.
            InputError: The session was closed.
        """
        session = self.session
        if isinstance(samples, np.ndarray) and samples.size > _SHORT:
            await run_in_thread("vexpress_rt_push", lambda: session.push(samples, rate))
        else:
            session.push(samples, rate)

    async def pull(self, timeout: float | None = 0.0, *, idle: bool = False) -> LiveFrame | None:
        """Return the next frame, or None if it needs more sound: see `LiveSession.pull`.

        Args:
            timeout: Seconds to wait for that sound, at least 0; None waits until it arrives or the session is closed.
            idle: Whether to return idle frames between utterances, instead of waiting.

        Raises:
            BackendError: An engine failed, or the generator was closed.
            ConfigError: `timeout` is out of range.
            InputError: The session was closed.
        """
        session = self.session
        return await self._pull(session, check_timeout(timeout), idle)

    async def frames(self, timeout: float | None = 0.0) -> AsyncIterator[LiveFrame]:
        """Iterate over frames until one needs more sound, or the session is closed.

        Args:
            timeout: Seconds to wait for the sound of each frame, as in `pull`.

        Raises:
            BackendError: An engine failed, or the generator was closed.
            ConfigError: `timeout` is out of range.
        """
        session = self.session
        seconds = check_timeout(timeout)
        while not self._thread.ended:
            frame = await self._pull(session, seconds, False)
            if frame is None:
                return
            yield frame

    async def flush(self) -> None:
        """End the speech, so that all its frames can be pulled: see `LiveSession.flush`.

        Raises:
            InputError: The session was closed.
        """
        self.session.flush()

    async def interrupt(self, shown: int | None = None) -> None:
        """Discard the speech of frames that were not shown: see `LiveSession.interrupt`.

        Args:
            shown: Number of frames of the session that were shown; None for all that were pulled.

        Raises:
            InputError: The frames cannot be taken back or were not pulled, or the session was closed.
        """
        self.session.interrupt(shown)

    async def close(self) -> None:
        """End the pulls, which return None, and free the session's memory. Closing twice is allowed."""
        await self._thread.close()

    async def __aenter__(self) -> Self:
        try:
            await self._thread.opened()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _pull(self, session: LiveSession, timeout: float | None, idle: bool) -> LiveFrame | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            return await self._thread.run(lambda: _pull(session, deadline, idle))
        except CancelledError:  # the session was closed meanwhile
            return None

    def __reduce__(self) -> NoReturn:
        refuse_pickling(self, "send its frames, whose images and samples are NumPy arrays")


def _pull(session: LiveSession, deadline: float | None, idle: bool) -> LiveFrame | None:
    """Pull a frame; wait for its sound in short pieces, so that the wait can be cancelled."""
    while True:
        check_cancelled()
        left = POLL if deadline is None else max(0.0, deadline - time.monotonic())
        frame = session.pull(min(left, POLL), idle=idle)
        if frame is not None or (deadline is not None and time.monotonic() >= deadline):
            return frame
