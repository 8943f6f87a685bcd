"""Run live mode on a simulated clock: chunks arrive at their times, and work advances the clock by its duration.

Waiting takes no real time, so a minute on this clock takes at most a minute.
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
    """An endlessly repeated recording.

    Attributes:
        samples: (n,) float32.
        rate: Hz.
    """

    samples: Samples
    rate: int

    def piece(self, start: int, stop: int) -> Samples:
        """Return samples [start, stop)."""
        return self.samples[np.arange(start, stop) % len(self.samples)]


@dataclass
class CheckedSession:
    """A session whose frames are checked.

    Attributes:
        session: The session.
        recording: The recording that is pushed.
        each: Called with every frame.
        count: Number of frames so far.
        wrong: Number of frames with a wrong index, time or samples.
        largest_offset: Largest difference, in seconds, between the time of a frame and that of its sound.
    """

    session: LiveSession
    recording: Recording
    each: Callable[[LiveFrame], object] = lambda frame: None
    count: int = 0
    wrong: int = 0
    largest_offset: float = 0.0
    _samples: int = 0

    def check(self, frame: LiveFrame) -> None:
        """Check the next frame."""
        fps, rate = self.session.fps, self.session.sample_rate
        start, stop = first_sample(self.count, rate, fps), first_sample(self.count + 1, rate, fps)
        right = frame.index == self.count and frame.time == self.count / fps
        right = right and np.array_equal(frame.samples, self.recording.piece(start, stop))
        self.wrong += not right
        self.largest_offset = max(self.largest_offset, abs(float(frame.time) - self._samples / rate))
        self._samples += len(frame.samples)
        self.count += 1
        self.each(frame)


def sustained(checked: CheckedSession, seconds: float, timer: Timer = time.perf_counter) -> float:
    """Return frames a second when sound is always available.

    Args:
        checked: The session with its recording.
        seconds: Least duration of the work; the sound is at least four seconds long.
        timer: Clock of the work.
    """
    session, recording, pushed = checked.session, checked.recording, 0
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
            checked.check(frame)
        counts.append((spent, checked.count))
    return checked.count / spent


@dataclass
class Run:
    """The result of a session on the clock.

    Attributes:
        seconds: Time on the clock.
        worked: Seconds of work among them.
        lag: Seconds of speech without frames at the end.
        latencies: Seconds from the arrival of a chunk to its first frame.
    """

    seconds: float = 0.0
    worked: float = 0.0
    lag: float = 0.0
    latencies: list[float] = field(default_factory=list)


def run(
    checked: CheckedSession, chunk: float, seconds: float, tick: Callable[[float], object] = lambda now: None,
    timer: Timer = time.perf_counter,
) -> Run:  # fmt: skip
    """Push a chunk at the end of its `chunk` seconds, and pull frames in between.

    Args:
        checked: The session with its recording.
        chunk: Seconds of a chunk.
        seconds: Duration on the clock.
        tick: Called with the time on the clock after every frame.
        timer: Clock of the work.
    """
    session, recording, result = checked.session, checked.recording, Run()
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
        checked.check(frame)
        end = first_sample(frame.index + 1, session.sample_rate, session.fps)
        while answered * size < end and answered < arrived:
            result.latencies.append(now - (answered + 1) * size / recording.rate)
            answered += 1
        tick(now)
    result.seconds, result.lag = now, session.lag
    return result
