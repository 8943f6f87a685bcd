"""Live mode against a clock that stands still while nobody works: chunks arrive at their time, work takes the time that
it takes, and waiting takes none. So a minute of it needs a minute at most, on a machine of any speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vexpress_rt import LiveFrame, LiveSession
from vexpress_rt.live.audio_buffer import first_sample

Samples = NDArray[np.float32]
Timer = Callable[[], float]  # seconds


@dataclass
class Recording:
    """A recording that is said again and again.  samples: (n,) float32 at `rate` Hz."""

    samples: Samples
    rate: int

    def piece(self, start: int, stop: int) -> Samples:
        """Samples start to stop - 1."""
        return self.samples[np.arange(start, stop) % len(self.samples)]


@dataclass
class Watched:
    """What was seen of the frames that a session gave, one after another.

    given: how many.  wrong: how many had other samples, another index or another time than they should.
    off: seconds between a frame's time and that of the sound given before it, at most.
    """

    session: LiveSession
    recording: Recording
    each: Callable[[LiveFrame], object] = lambda frame: None
    given: int = 0
    wrong: int = 0
    off: float = 0.0
    _samples: int = 0

    def see(self, frame: LiveFrame) -> None:
        """The next frame."""
        fps, rate = self.session.fps, self.session.sample_rate
        start, stop = first_sample(self.given, rate, fps), first_sample(self.given + 1, rate, fps)
        right = frame.index == self.given and frame.time == self.given / fps
        right = right and np.array_equal(frame.samples, self.recording.piece(start, stop))
        self.wrong += not right
        self.off = max(self.off, abs(float(frame.time) - self._samples / rate))
        self._samples += len(frame.samples)
        self.given += 1
        self.each(frame)


def sustained(watched: Watched, seconds: float, timer: Timer = time.perf_counter) -> float:
    """Frames a second where the sound that is needed is always there, over `seconds` or at least four of sound.

    timer: what work is measured with.
    """
    session, recording, pushed = watched.session, watched.recording, 0
    counts: list[tuple[float, int]] = [(0.0, 0)]
    spent = 0.0
    while spent < seconds or len(counts) <= 4:
        session.push(recording.piece(pushed, pushed + recording.rate))
        pushed += recording.rate
        while True:
            began = timer()
            frame = session.pull()
            spent += timer() - began
            if frame is None:
                break
            watched.see(frame)
        counts.append((spent, watched.given))
    return watched.given / spent


@dataclass
class Run:
    """A session in its own time.

    seconds: that passed on the clock.  worked: of them, how many were work.
    latencies: seconds from a chunk's arrival to its first frame, of each chunk whose frame came.
    lag: seconds of speech that wait in the end.
    """

    seconds: float = 0.0
    worked: float = 0.0
    lag: float = 0.0
    latencies: list[float] = field(default_factory=list)


def run(
    watched: Watched, chunk: float, seconds: float, tick: Callable[[float], object] = lambda now: None,
    timer: Timer = time.perf_counter,
) -> Run:  # fmt: skip
    """Push a chunk of `chunk` seconds whenever one was spoken, and pull whenever there is nothing else to do.

    tick: called with the time on the clock, after every frame.  timer: what work is measured with.
    """
    session, recording, result = watched.session, watched.recording, Run()
    size = max(1, round(chunk * recording.rate))
    now, arrived, answered = 0.0, 0, 0
    while now < seconds:
        while (arrived + 1) * size / recording.rate <= now:
            session.push(recording.piece(arrived * size, (arrived + 1) * size))
            arrived += 1
        began = timer()
        frame = session.pull()
        took = timer() - began
        now, result.worked = now + took, result.worked + took
        if frame is None:
            now = max(now, (arrived + 1) * size / recording.rate)
            continue
        watched.see(frame)
        end = first_sample(frame.index + 1, session.sample_rate, session.fps)
        while answered * size < end and answered < arrived:
            result.latencies.append(now - (answered + 1) * size / recording.rate)
            answered += 1
        tick(now)
    result.seconds, result.lag = now, session.lag
    return result
