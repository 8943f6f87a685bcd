"""Frames of a video for coroutines, while it is generated: `AsyncFrameStream`."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from fractions import Fraction
from functools import partial
from typing import Any, NoReturn, Self, TypeVar

from vexpress_rt.errors import CancelledError
from vexpress_rt.pipeline.frame_stream import FrameStream
from vexpress_rt.types import Float32, UInt8
from vexpress_rt.utils.async_thread import AsyncThread, result
from vexpress_rt.utils.process_bound import refuse_pickling

T = TypeVar("T")

READ_AHEAD = 2  # frames that are computed before they are requested


class AsyncFrameStream:
    """An asynchronous iterator of the frames of a video: the result of `Generator.astream`.

        async with generator.astream("portrait.png", "speech.wav") as frames:
            async for frame in frames:
                await show(frame, at=frames.time)

    All work is done in one thread, which belongs to the stream; the event loop never waits for it. The thread computes
    at most two frames ahead of those that were requested. Inputs are read by `async with`, or else by the first frame;
    the attributes can be read afterwards.

    A task that is cancelled while it waits for a frame closes the stream: its work ends at most one engine call later,
    and the task ends after it. To wait for a frame with a time limit, use `asyncio.wait`, which does not cancel.
    Leaving the block of `async with` closes the stream. A stream that is dropped ends its work as well, without a wait.

    Attributes:
        done: Number of frames returned so far.
    """

    def __init__(self, open_stream: Callable[[], FrameStream]) -> None:
        self.done = 0
        self._thread = AsyncThread("vexpress_rt_stream", open_stream, FrameStream.close)
        self._requested = 0
        self._ahead: deque[asyncio.Future[UInt8 | None]] = deque()
        weakref.finalize(self, self._thread.end)

    @property
    def fps(self) -> Fraction:
        """Frames per second, exactly."""
        return self._thread.value.fps

    @property
    def length(self) -> int:
        """Number of frames, L."""
        return self._thread.value.length

    @property
    def keypoints(self) -> Float32:
        """Target keypoints, as `FrameStream.keypoints`."""
        return self._thread.value.keypoints

    @property
    def notes(self) -> tuple[str, ...]:
        """Repairs of the inputs, and choices that were left to the generator."""
        return self._thread.value.notes

    @property
    def time(self) -> Fraction:
        """The presentation time of the last frame in seconds, (done - 1) / fps; 0 before the first frame."""
        return max(self.done - 1, 0) / self.fps

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds by stage, as `FrameStream.timings`."""
        return self._thread.value.timings

    @property
    def cancelled(self) -> bool:
        """Whether the stream was cancelled or closed before its last frame."""
        if not self._thread.is_open:
            return self._thread.ended
        return (self._thread.ended or self._thread.value.cancelled) and self.done < self.length

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> UInt8:
        """Return the next frame, (H, W, 3) uint8 RGB.

        Raises:
            StopAsyncIteration: All frames were returned, or the stream is closed.
            VExpressError: As described in `Generator.stream`.
        """
        if self._thread.ended:
            raise StopAsyncIteration
        stream = await self._result(self._thread.opened())
        while self._requested < stream.length and len(self._ahead) <= READ_AHEAD:
            self._ahead.append(self._thread.submit(partial(next, stream, None)))
            self._requested += 1
        frame = None
        if self._ahead:
            with suppress(CancelledError):  # `cancel` was called meanwhile
                frame = await self._result(result(self._ahead.popleft(), self.cancel))
        if frame is None or self._thread.ended:
            await self.aclose()
            raise StopAsyncIteration
        self.done += 1
        return frame

    def cancel(self) -> None:
        """End the stream without waiting, from any thread: its work ends at most one engine call later."""
        self._thread.end()
        if self._thread.is_open:
            self._thread.value.cancel()

    async def aclose(self) -> None:
        """End the stream, wait for the current engine call, and free the memory. Closing twice is allowed."""
        self._ahead.clear()
        await self._thread.close()

    async def __aenter__(self) -> Self:
        await self._result(self._thread.opened())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def _result(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of work in the thread; close the stream if the work fails or the task is cancelled."""
        try:
            return await work
        except (Exception, asyncio.CancelledError):
            await self.aclose()
            raise

    def __reduce__(self) -> NoReturn:
        refuse_pickling(self, "send its frames, which are NumPy arrays")
