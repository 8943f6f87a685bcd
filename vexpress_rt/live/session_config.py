"""The configuration of a live session: the caller's seconds, resolved to numbers of frames."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from vexpress_rt.bundle.manifest import Manifest
from vexpress_rt.config import Settings, brief, plain_number
from vexpress_rt.errors import ConfigError
from vexpress_rt.live.audio_buffer import SessionAudio
from vexpress_rt.media.resampler import FILTER

LONGEST_LOOK_AHEAD = 5.0  # seconds
CONTEXT_RANGE = (0.5, 30.0)  # seconds
MAX_LAG_RANGE = (1.0, 3600.0)  # seconds


@dataclass(frozen=True)
class SessionPlan:
    """The resolved configuration of a session, in frames unless stated otherwise.

    Attributes:
        window: Frames of a window.
        overlap: Frames that a window shares with the window before.
        look_ahead: Frames of sound after a window that must have arrived before it is denoised.
        before: Frames of sound in the model's input up to the end of a window.
        after: Frames of sound in the model's input after a window.
        keep: Pulled frames that can be taken back.
        max_lag: Seconds of speech that may wait to be pulled.
        normalized: Whether the audio encoder takes speech of zero mean and unit variance.
        gated: Whether the noise gate is on.
    """

    window: int
    overlap: int
    look_ahead: int
    before: int
    after: int
    keep: int
    max_lag: float
    normalized: bool
    gated: bool

    @property
    def new(self) -> int:
        """New frames of a window."""
        return self.window - self.overlap


def plan_session(
    settings: Settings, manifest: Manifest, rate: int, *, look_ahead: Any, context: Any, max_lag: Any
) -> SessionPlan:
    """Resolve the arguments of `Generator.live`; seconds are rounded up to frames.

    Args:
        settings: The resolved options.
        manifest: The bundle's manifest.
        rate: Hz of the session.
        look_ahead: Seconds of sound to wait for after a window, 0 to LONGEST_LOOK_AHEAD.
        context: Seconds of sound before each window, in CONTEXT_RANGE.
        max_lag: Seconds of speech that may wait to be pulled, in MAX_LAG_RANGE.

    Raises:
        ConfigError: Seconds are out of range, or the sound of a window does not fit into `max_lag`.
    """
    ahead = math.ceil(_seconds("look_ahead", look_ahead, 0.0, LONGEST_LOOK_AHEAD) * settings.rate)
    before = math.ceil(_seconds("context", context, *CONTEXT_RANGE) * settings.rate)
    model, window = manifest.model, manifest.shape.frames
    # The feature window of a frame reaches into the following frames; beyond the look-ahead these are silent.
    reach = math.ceil((model.audio_rows // 2 - 1) / 2)
    plan = SessionPlan(
        window=window,
        overlap=settings.overlap,
        look_ahead=ahead,
        before=window + before,
        after=max(ahead, reach),
        keep=before,
        max_lag=_seconds("max_lag", max_lag, *MAX_LAG_RANGE),
        normalized=model.audio_normalize,
        gated=settings.noise_gate and model.audio_normalize,
    )
    _check_room(plan, settings, rate, model.sample_rate)
    return plan


def _check_room(plan: SessionPlan, settings: Settings, rate: int, model_rate: int) -> None:
    """Raise ConfigError if a frame needs more speech than may wait to be pulled."""
    frames = plan.new + plan.look_ahead + 1  # one more, because the median filter needs the frame after the window
    filtering = 0 if rate == model_rate else Fraction(FILTER, min(rate, model_rate))
    need = float(frames / settings.rate + filtering)
    if plan.max_lag < need:
        raise ConfigError(
            f"max_lag is {plan.max_lag:g} seconds, and no frame can be made of less than {need:.2f} seconds of speech "
            f"({plan.new} new frames a window, {plan.look_ahead} of look_ahead and one for the median, at "
            f"{float(settings.rate):g} a second); expected at least as much: give a larger max_lag, or less look_ahead"
        )


def make_session_audio(plan: SessionPlan, rate: int, manifest: Manifest, settings: Settings) -> SessionAudio:
    """Return the sound buffer of a session of `rate` Hz."""
    return SessionAudio(
        rate, manifest.model.sample_rate, settings.rate, before=plan.before, ahead=plan.look_ahead, after=plan.after
    )


def check_timeout(timeout: Any) -> float | None:
    """Return the seconds to wait, or None to wait without end.

    Args:
        timeout: Seconds of at least 0, or None.

    Raises:
        ConfigError: `timeout` is neither None nor a number of at least 0.
    """
    if timeout is None:
        return None
    number = plain_number(timeout)
    if number is None or not number >= 0:
        raise ConfigError(f"timeout is {brief(timeout)}; expected seconds of at least 0, or None to wait without end")
    # The longest time that threads can wait (292 years on Linux), less a second for rounding.
    return float(min(number, threading.TIMEOUT_MAX - 1))


def _seconds(name: str, value: Any, least: float, most: float) -> float:
    number = plain_number(value)
    if number is None or not least <= number <= most:
        raise ConfigError(f"{name} is {brief(value)}; expected {least:g} to {most:g} seconds")
    return float(number)
