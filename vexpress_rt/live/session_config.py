"""The configuration of a live session: the caller's seconds, resolved to numbers of frames."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from vexpress_rt.bundle.manifest import Manifest
from vexpress_rt.config import Settings, brief, check_choice, plain_number
from vexpress_rt.errors import ConfigError
from vexpress_rt.live.audio_buffer import SessionAudio
from vexpress_rt.media.resampler import FILTER

LONGEST_LOOK_AHEAD = 5.0  # seconds
CONTEXT_RANGE = (0.5, 30.0)  # seconds
MAX_LAG_RANGE = (1.0, 3600.0)  # seconds
DEFAULT_MAX_LAG = 5.0  # seconds
LONGEST_QUEUE = 600.0  # seconds of speech that may wait if an overload does not raise
LONGEST_IDLE_AFTER = 3600.0  # seconds
OVERLOADS = ("raise", "drop", "skip")


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
        overload: What happens when the session falls behind, one of OVERLOADS.
        max_lag: Seconds of speech that may wait to be pulled ("raise"), or by which frames may be late.
        idle_after: Seconds without new sound after which an idle pull ends an utterance; None for never.
        normalized: Whether the audio encoder takes speech of zero mean and unit variance.
        gated: Whether the noise gate is on.
    """

    window: int
    overlap: int
    look_ahead: int
    before: int
    after: int
    keep: int
    overload: str
    max_lag: float
    idle_after: float | None
    normalized: bool
    gated: bool

    @property
    def new(self) -> int:
        """New frames of a window."""
        return self.window - self.overlap

    @property
    def longest_queue(self) -> float:
        """Seconds of speech that may wait to be pulled."""
        return self.max_lag if self.overload == "raise" else max(self.max_lag, LONGEST_QUEUE)


def plan_session(
    settings: Settings, manifest: Manifest, rate: int, *,
    look_ahead: Any, context: Any, overload: Any, max_lag: Any, idle_after: Any,
) -> SessionPlan:  # fmt: skip
    """Resolve the arguments of `Generator.live`; seconds are rounded up to frames.

    Args:
        settings: The resolved options.
        manifest: The bundle's manifest.
        rate: Hz of the session.
        look_ahead: Seconds of sound to wait for after a window, 0 to LONGEST_LOOK_AHEAD.
        context: Seconds of sound before each window, in CONTEXT_RANGE.
        overload: One of OVERLOADS.
        max_lag: Seconds by which the session may fall behind, in MAX_LAG_RANGE; None for DEFAULT_MAX_LAG, or twice the
            sound that a window needs if that is longer.
        idle_after: Seconds without new sound after which an utterance ends, 0 to LONGEST_IDLE_AFTER; None for never.

    Raises:
        ConfigError: A choice is unknown, seconds are out of range, or the sound of a window does not fit into
            `max_lag`.
    """
    check_choice("overload", overload, OVERLOADS)
    ahead = math.ceil(_seconds("look_ahead", look_ahead, 0.0, LONGEST_LOOK_AHEAD) * settings.rate)
    before = math.ceil(_seconds("context", context, *CONTEXT_RANGE) * settings.rate)
    model, window = manifest.model, manifest.shape.frames
    # The feature window of a frame reaches into the following frames; beyond the look-ahead these are silent.
    reach = math.ceil((model.audio_rows // 2 - 1) / 2)
    needed = _needed_sound(window - settings.overlap, ahead, settings, rate, model.sample_rate)
    if max_lag is None:
        max_lag = min(max(DEFAULT_MAX_LAG, 2 * needed), MAX_LAG_RANGE[1])
    plan = SessionPlan(
        window=window,
        overlap=settings.overlap,
        look_ahead=ahead,
        before=window + before,
        after=max(ahead, reach),
        keep=before,
        overload=str(overload),
        max_lag=_seconds("max_lag", max_lag, *MAX_LAG_RANGE),
        idle_after=None if idle_after is None else _seconds("idle_after", idle_after, 0.0, LONGEST_IDLE_AFTER),
        normalized=model.audio_normalize,
        gated=settings.noise_gate and model.audio_normalize,
    )
    if plan.max_lag < needed:
        raise ConfigError(
            f"max_lag is {plan.max_lag:g} seconds, and no frame can be made of less than "
            f"{seconds_above(needed, plan.max_lag)} seconds of speech ({plan.new} new frames a window, "
            f"{plan.look_ahead} of look_ahead and one for the median, at {float(settings.rate):g} a second); expected "
            "at least as much: give a larger max_lag, or less look_ahead"
        )
    return plan


def _needed_sound(new: int, look_ahead: int, settings: Settings, rate: int, model_rate: int) -> float:
    """Return the seconds of speech that a frame needs."""
    frames = new + look_ahead + 1  # one more, because the median filter needs the frame after the window
    filtering = 0 if rate == model_rate else Fraction(FILTER, min(rate, model_rate))
    return float(frames / settings.rate + filtering)


def seconds_above(seconds: float, limit: float) -> str:
    """Format seconds above a limit with two decimals, or with as many as show that they are above it.

    Args:
        seconds: More than `limit`.
        limit: The limit, in seconds.
    """
    texts = (f"{seconds:.{digits}f}" for digits in range(2, 10))
    return next((text for text in texts if float(text) > limit), repr(seconds))


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
