"""How a live session runs: what its caller chose, in seconds, as numbers of frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from vexpress_rt.config import Settings
from vexpress_rt.errors import ConfigError
from vexpress_rt.live_sound import LiveSound
from vexpress_rt.manifest import Manifest

LONGEST_LOOK_AHEAD = 5.0  # seconds
CONTEXTS = (0.5, 30.0)
LAGS = (1.0, 3600.0)


@dataclass(frozen=True)
class LivePlan:
    """Numbers of frames, but for `max_lag`.

    window: denoised at once.  overlap: of those, how many were given out before.
    look_ahead: waited for after a window.  before, after: heard until the end of a window, and after it.
    keep: how many that were given can be taken back.
    max_lag: seconds of speech that may wait.  normalized: whether the audio encoder wants speech of unit variance.
    """

    window: int
    overlap: int
    look_ahead: int
    before: int
    after: int
    keep: int
    max_lag: float
    normalized: bool

    @property
    def new(self) -> int:
        """Frames that a window adds."""
        return self.window - self.overlap


def plan_live(settings: Settings, manifest: Manifest, *, look_ahead: Any, context: Any, max_lag: Any) -> LivePlan:
    """Seconds as `Generator.live` takes them -> frames, rounded up. Raises ConfigError for seconds out of range."""
    ahead = math.ceil(_seconds("look_ahead", look_ahead, 0.0, LONGEST_LOOK_AHEAD) * settings.rate)
    heard = math.ceil(_seconds("context", context, *CONTEXTS) * settings.rate)
    model, window = manifest.model, manifest.shape.frames
    # A frame's rows of features reach into its neighbours: where the look-ahead ends before, they are of silence.
    reach = math.ceil((model.audio_rows // 2 - 1) / 2)
    return LivePlan(
        window=window,
        overlap=settings.overlap,
        look_ahead=ahead,
        before=window + heard,
        after=max(ahead, reach),
        keep=heard,
        max_lag=_seconds("max_lag", max_lag, *LAGS),
        normalized=model.audio_normalize,
    )


def make_sound(plan: LivePlan, rate: int, manifest: Manifest, settings: Settings) -> LiveSound:
    """What keeps the sound of a session of `rate` Hz."""
    return LiveSound(
        rate, manifest.model.sample_rate, settings.rate, before=plan.before, ahead=plan.look_ahead, after=plan.after
    )


def _seconds(name: str, value: Any, least: float, most: float) -> float:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise ConfigError(f"{name} is {value!r}; expected {least:g} to {most:g} seconds")
    return float(value)
