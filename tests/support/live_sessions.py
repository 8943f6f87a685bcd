"""Live sessions of stand-in engines, their speech, and their frames."""

from __future__ import annotations

from collections.abc import Iterable
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
