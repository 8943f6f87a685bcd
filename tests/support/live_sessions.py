"""Live sessions of stand-in engines, their speech, and their frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.doubles.fakes import SMALL
from tests.support.scenes import speech
from vexpress_rt import GenerationConfig, Generator, LiveFrame, LiveSession, Portrait
from vexpress_rt.diffusion.noise_schedule import alphas_cumprod

CONFIG = GenerationConfig(steps=2, overlap=2, fps=25, guidance_scale=1)
ALPHAS = alphas_cumprod(SMALL.train_timesteps, SMALL.beta_start, SMALL.beta_end)
NEW = 6  # frames of a window that are new


def open_session(generator: Generator, portrait: Portrait, **options: Any) -> LiveSession:
    """Open a session with windows of NEW new frames and a look-ahead of two frames."""
    return generator.live(portrait, **{"config": CONFIG, "look_ahead": 0.08, "context": 0.5, **options})


@dataclass
class SimulatedClock:
    """A clock that a test sets.

    Attributes:
        now: Seconds.
        tick: Called at least every 10 ms while time passes in `work`, as other threads would run meanwhile.
    """

    now: float = 0.0
    tick: Callable[[], object] = lambda: None

    def work(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.01)
            self.tick()


def set_clock(session: LiveSession) -> SimulatedClock:
    """Give a session a clock that stands still, and return it."""
    clock = SimulatedClock()
    session.clock = lambda: clock.now
    return clock


def voice(seconds: float, rate: int = 16000) -> np.ndarray:
    return speech(seconds, rate)[0]


def push_all(session: LiveSession, pieces: Iterable[np.ndarray], rate: int | None = None) -> list[LiveFrame]:
    """Push pieces of speech, pulling frames in between; return all frames."""
    frames: list[LiveFrame] = []
    for piece in pieces:
        session.push(piece, rate)
        frames += session.frames()
    session.flush()
    return [*frames, *session.frames()]


def images(frames: Iterable[LiveFrame]) -> np.ndarray:
    return np.stack([frame.image for frame in frames])
