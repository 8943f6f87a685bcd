"""How a live session runs: what its caller chose, in seconds, as numbers of frames."""

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
CONTEXTS = (0.5, 30.0)
LAGS = (1.0, 3600.0)


@dataclass(frozen=True)
class SessionPlan:
    """Numbers of frames, but for `max_lag`.

    window: denoised at once.  overlap: of those, how many were given out before.
    look_ahead: waited for after a window.  before, after: heard until the end of a window, and after it.
    keep: how many that were given can be taken back.
    max_lag: seconds of speech that may wait.  normalized: whether the audio encoder wants speech of unit variance.
    gated: whether the noise gate is on.
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
        """Frames that a window adds."""
        return self.window - self.overlap


def plan_session(
    settings: Settings, manifest: Manifest, rate: int, *, look_ahead: Any, context: Any, max_lag: Any
) -> SessionPlan:
    """Seconds as `Generator.live` takes them -> frames, rounded up.

    rate: Hz of the session's sound.
    Raises ConfigError for seconds out of range, and for a `max_lag` in which no window's sound can gather.
    """
    ahead = math.ceil(_seconds("look_ahead", look_ahead, 0.0, LONGEST_LOOK_AHEAD) * settings.rate)
    heard = math.ceil(_seconds("context", context, *CONTEXTS) * settings.rate)
    model, window = manifest.model, manifest.shape.frames
    # A frame's rows of features reach into its neighbours: where the look-ahead ends before, they are of silence.
    reach = math.ceil((model.audio_rows // 2 - 1) / 2)
    plan = SessionPlan(
        window=window,
        overlap=settings.overlap,
        look_ahead=ahead,
        before=window + heard,
        after=max(ahead, reach),
        keep=heard,
        max_lag=_seconds("max_lag", max_lag, *LAGS),
        normalized=model.audio_normalize,
        gated=settings.noise_gate and model.audio_normalize,
    )
    _check_room(plan, settings, rate, model.sample_rate)
    return plan


def _check_room(plan: SessionPlan, settings: Settings, rate: int, model_rate: int) -> None:
    """Raise ConfigError if more speech has to wait for a frame than may wait."""
    frames = plan.new + plan.look_ahead + 1  # the median's: the last one of a window waits for the next
    filtering = 0 if rate == model_rate else Fraction(FILTER, min(rate, model_rate))
    need = float(frames / settings.rate + filtering)
    if plan.max_lag < need:
        raise ConfigError(
            f"max_lag is {plan.max_lag:g} seconds, and no frame can come of less than {need:.2f} seconds of speech "
            f"({plan.new} new frames a window, {plan.look_ahead} of look_ahead and one for the median, at "
            f"{float(settings.rate):g} a second); expected at least as much: give a larger max_lag, or less look_ahead"
        )


def make_sound(plan: SessionPlan, rate: int, manifest: Manifest, settings: Settings) -> SessionAudio:
    """What keeps the sound of a session of `rate` Hz."""
    return SessionAudio(
        rate, manifest.model.sample_rate, settings.rate, before=plan.before, ahead=plan.look_ahead, after=plan.after
    )


def check_timeout(timeout: Any) -> float | None:
    """Seconds to wait, or None for no end. Raises ConfigError for what is neither, and for NaN and less than 0."""
    if timeout is None:
        return None
    number = plain_number(timeout)
    if number is None or not number >= 0:
        raise ConfigError(f"timeout is {brief(timeout)}; expected seconds of at least 0, or None to wait without end")
    # The longest that threads can wait (292 years on Linux) less a second, beyond which no rounding goes.
    return float(min(number, threading.TIMEOUT_MAX - 1))


def _seconds(name: str, value: Any, least: float, most: float) -> float:
    number = plain_number(value)
    if number is None or not least <= number <= most:
        raise ConfigError(f"{name} is {brief(value)}; expected {least:g} to {most:g} seconds")
    return float(number)
