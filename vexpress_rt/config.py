"""What a caller may choose for a video: frozen, keyword-only, checked when made."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from fractions import Fraction
from numbers import Integral, Real
from reprlib import Repr
from typing import Any, ParamSpec, Self, TypeVar

from vexpress_rt.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")

MIN_FPS, MAX_FPS = 1, 240  # of the videos made, and of those whose motion is followed
RETARGET_MODES = ("no_retarget", "fix_face", "offset_retarget", "naive_retarget")
EXTENSION_MODES = ("stretch", "hold", "loop", "mirror")
CROP_MODES = ("face", "none")
SAMPLERS = ("ddim", "dpm++2m", "unipc")
REBUILD = ("auto", "never")  # of TensorRT's plans, where they do not fit the machine
WINDOW_ORDERS = ("wavefront", "step_major")  # see `context_windows.walk`
MAX_THREADS = 1024

# Names before version 0.1. They are refused with the new name; manifests and checkpoints that have them are read.
RENAMED_OPTIONS = {"schedule": "window_order", "unconditional_every": "uncond_interval"}
RENAMED_VALUES = {"breadth": "step_major"}

# What a preset stands for. "exact" is the published pipeline. On the small model 12 steps of UniPC come as near to the
# converged picture as 25 of DDIM do, and 6 as near as 8. All steps are guided: at the same cost, fewer steps that are
# guided stay nearer to it than more of which some are not, or reuse.
PRESETS: dict[str, dict[str, Any]] = {
    "exact": {"sampler": "ddim", "steps": 25, "guidance_interval": (0.0, 1.0), "uncond_interval": 1},
    "balanced": {"sampler": "unipc", "steps": 12, "guidance_interval": (0.0, 1.0), "uncond_interval": 1},
    "fast": {"sampler": "unipc", "steps": 6, "guidance_interval": (0.0, 1.0), "uncond_interval": 1},
}

# Options that are numbers: the least and the largest value.
_WHOLE: dict[str, tuple[int, float]] = {
    "steps": (1, 1000), "uncond_interval": (1, 1000), "overlap": (0, math.inf), "seed": (0, 2**64 - 1),
    "quality": (0, 51),
}  # fmt: skip
CHOICES = {"preset": tuple(PRESETS), "sampler": SAMPLERS, "extension": EXTENSION_MODES}
_REAL = {"guidance_scale": (0, 100), "reference_attention_weight": (0, 10), "audio_attention_weight": (0, 10)}


_REPR = Repr()
_REPR.maxstring, _REPR.maxother, _REPR.maxlong = 200, 1000, 1000  # characters


def brief(value: object) -> str:
    """Return a short representation of a value of any type for error messages, even if its `__repr__` fails."""
    try:
        return _REPR.repr(value)
    except Exception:  # an integer of thousands of digits, or a `__repr__` that fails
        return f"a {type(value).__name__}"


def is_number(value: object, *, whole: bool = False) -> bool:
    """Return whether a value is a real (or `whole`) number of a type of Python or NumPy.

    Excluded are bool, NumPy's timedelta64, which NumPy registers as an integer, and objects with a false `__class__`.
    """
    kind = type(value)
    return issubclass(kind, Integral if whole else Real) and kind.__name__ not in ("bool", "timedelta64")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        renamed = RENAMED_VALUES.get(value) if isinstance(value, str) else None
        hint = f": {value} is called {renamed} now" if renamed in choices else ""
        raise ConfigError(f"{name} is {brief(value)}; expected one of {', '.join(choices)}{hint}")


def refuse_renamed(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function raise ConfigError for keyword arguments under their former names."""
    renamed = {old: new for old, new in RENAMED_OPTIONS.items() if new in inspect.signature(function).parameters}

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        for old, new in renamed.items():
            if old in kwargs:
                raise ConfigError(f"the argument {old} is called {new} now: pass {new}=...")
        return function(*args, **kwargs)

    return checked


def check_threads(threads: object) -> int | None:
    """`threads` as an int, or None for one a core. Raises ConfigError unless it is a number of 1 to MAX_THREADS."""
    if threads is None:
        return None
    try:
        return int(_checked("threads", threads, 1, MAX_THREADS, whole=True))
    except ConfigError as error:
        raise ConfigError(f"{error}, or None for one a core") from None


def check_progress(progress: object) -> Callable[[str, int, int], None]:
    """What is told how far the work has come; of None nobody is. Raises ConfigError for what cannot be called."""
    if progress is None:
        return lambda stage, done, total: None
    if not callable(progress):
        raise ConfigError(f"progress is {brief(progress)}; expected a function of stage, done and total, or None")
    return progress


def check_flag(name: str, value: object) -> bool:
    """Return `value` as a bool. Raises ConfigError unless it is a bool of Python or NumPy."""
    if type(value).__name__ not in ("bool", "bool_"):  # without importing NumPy
        raise ConfigError(f"{name} is {brief(value)}; expected True or False")
    return bool(value)


def _checked(name: str, value: object, low: float, high: float, *, whole: bool = False) -> int | float:
    """`value` as Python's own int or float, so that NumPy's numbers do as well. Raises ConfigError out of range."""
    kind = "a whole number" if whole else "a number"
    number = plain_number(value, whole=whole)
    if number is None or not low <= number <= high:
        upper = "" if math.isinf(high) else f" and at most {high}"
        raise ConfigError(f"{name} is {brief(value)}; expected {kind} of at least {low}{upper}")
    return number


def plain_number(value: Any, *, whole: bool = False) -> int | float | None:
    """Convert a number to int or float, because comparisons of float16 can overflow.

    Returns:
        The number; None if `value` is not a number (see `is_number`) or overflows a float.
    """
    if not is_number(value, whole=whole):
        return None
    try:
        return int(value) if isinstance(value, Integral) else float(value)
    except Exception:  # a user-defined type, or a fraction of huge numbers
        return None


def exact_rate(value: object) -> Fraction:
    """A frame rate as an exact fraction: 30 -> 30/1, 29.97 -> 30000/1001, "30000/1001" as written.

    Raises ConfigError outside 1 to 240 frames a second.
    """
    rate = _fraction(value)
    if rate is None or not MIN_FPS <= rate <= MAX_FPS:
        raise ConfigError(
            f"fps is {brief(value)}; expected frames a second between {MIN_FPS} and {MAX_FPS}, "
            "as a number or a fraction"
        )
    broadcast = Fraction(round(rate * 1001 / 1000) * 1000, 1001)  # 23.976, 29.97, 59.94
    if rate.denominator != 1 and abs(rate - broadcast) < Fraction(1, 1000):
        return broadcast
    return rate.limit_denominator(1001)


def _fraction(value: object) -> Fraction | None:
    """A number or its text, exactly; None for what is neither, and for text with an exponent, which could be huge."""
    try:
        if isinstance(value, str):
            return Fraction(value) if re.fullmatch(r"[\d./]{1,20}", value) else None
        if isinstance(value, Fraction):
            return value
        number = plain_number(value)
        return None if number is None else Fraction(number)
    except (ValueError, ZeroDivisionError, OverflowError):  # malformed strings; infinity and NaN
        return None


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How a video is generated. What is None is as the preset has it, or else as the bundle recommends, or else as
    published: see `Settings`.

    preset: exact (the published pipeline), balanced or fast: sampler, steps and guidance by one name.
    steps: denoising steps, 1 to 1000.
    sampler: ddim (upstream), or dpm++2m or unipc, which need fewer steps.
    guidance_scale: classifier-free guidance; 1 or less runs the conditional half alone.
    guidance_interval: shares of the way from noise to picture, 0 to 1, between which steps are guided; in the others
        the conditional half runs alone, which is faster.
    uncond_interval: run the unconditional pass every N guided steps and reuse its prediction in between, which is
        faster.
    reference_attention_weight: how strongly the photo is followed (useful: 0.9 to 1.0).
    audio_attention_weight: how strongly the voice is followed (useful: 1.0 to 3.0).
    fps: frames a second, 1 to 240; 29.97 and its kin are taken as the exact broadcast fraction.
    overlap: frames that neighbouring context windows share; at least 0, less than the bundle's frames.
    seed: of the noise, 0 to 2**64 - 1.
    median_filter: the 3x3x3 median over time, rows and columns that upstream applies to finished frames.
    noise_gate: replace noise without voice (hum, fans, room noise) by silence, so that it does not open the mouth;
        `media.voice_activity` documents the rule. Without the gate, all sound is raised to the level of speech,
        as upstream does.
    extension: what is done when keypoints are fewer than frames: stretch (upstream), hold, loop or mirror.
    upstream_anchor: repeat upstream's faulty search for the anchor frame of retargeting (see `keypoints.retarget`).
    quality: constant rate factor of libx264, 0 (lossless) to 51; smaller is better and larger on disk.

    Raises ConfigError (a ValueError) for a value outside its range, and for an option that is none of these.
    """

    preset: str | None = None
    steps: int | None = None
    sampler: str | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    uncond_interval: int | None = None
    reference_attention_weight: float | None = None
    audio_attention_weight: float | None = None
    fps: float | Fraction | str | None = None
    overlap: int | None = None
    seed: int = 42
    median_filter: bool | None = None
    noise_gate: bool | None = None
    extension: str = "stretch"
    upstream_anchor: bool = False
    quality: int = 18

    def __new__(cls, **options: Any) -> Self:
        """Refuse options that do not exist before the generated __init__ would, with a TypeError of Python's own."""
        names = [f.name for f in fields(cls)]
        for name in options.keys() - set(names):
            near = get_close_matches(name, names, 1, cutoff=0.5)
            hint = f": did you mean {near[0]!r}?" if near else ""
            if RENAMED_OPTIONS.get(name) in names:
                hint = f": {name} is called {RENAMED_OPTIONS[name]} now"
            raise ConfigError(f"{brief(name)} is no option; expected {', '.join(names)}{hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if value is not None or option.default is not None:
                object.__setattr__(self, option.name, _valid(option.name, value))

    @property
    def rate(self) -> Fraction | None:
        """Frames a second, exactly; None if that is left to the bundle."""
        return None if self.fps is None else exact_rate(self.fps)

    def resolve(self, recommended: Mapping[str, Any], frames: int) -> Settings:
        """What is used with a bundle whose context window has `frames` frames.

        recommended: by the bundle, for what is None here and not in the preset either.
        Raises ConfigError for what a bundle cannot recommend, and for an overlap that does not fit the window.
        """
        check_recommended(recommended)
        preset = {} if self.preset is None else PRESETS[self.preset]
        given = {
            name: value for name in OPTION_NAMES if (value := getattr(self, name)) is not None and name != "preset"
        }
        settings = Settings(**{"overlap": min(Settings.overlap, frames // 2), **recommended, **preset, **given})
        if settings.overlap >= frames:
            raise ConfigError(
                f"overlap is {settings.overlap}; expected less than the bundle's window of {frames} frames: "
                f"choose 0 to {frames - 1}, or build a bundle with more --frames"
            )
        return settings


@dataclass(frozen=True, kw_only=True)
class Settings(GenerationConfig):
    """A configuration that leaves nothing open. Its defaults are the published V-Express pipeline (arXiv 2406.02511).

    Where neither the caller nor the bundle says how much windows overlap, small ones do by half: `resolve`. `preset` is
    None: what it stands for is in the other options. Raises ConfigError for any other.
    """

    steps: int = 25
    sampler: str = "ddim"
    guidance_scale: float = 3.5
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    uncond_interval: int = 1
    reference_attention_weight: float = 0.95
    audio_attention_weight: float = 3.0
    fps: float | Fraction | str = 30
    overlap: int = 4
    median_filter: bool = True
    noise_gate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset is not None:
            raise ConfigError(
                f"preset is {self.preset!r}; expected None in Settings, whose options are all decided: use "
                f"GenerationConfig(preset={self.preset!r})"
            )

    @property
    def rate(self) -> Fraction:
        """Frames a second, exactly."""
        return exact_rate(self.fps)


OPTION_NAMES = tuple(option.name for option in fields(GenerationConfig))
RECOMMENDABLE = tuple(
    option.name for option in fields(Settings) if option.default != getattr(GenerationConfig, option.name)
)
_RECOMMENDED_AS: dict[str, tuple[type, ...]] = {"sampler": (str,), "guidance_interval": (list, tuple)}


def current_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that a file holds, with those under a former name under their present one."""
    renamed = {old: new for old, new in RENAMED_OPTIONS.items() if new not in options}
    return {renamed.get(name, name): value for name, value in options.items()}


def check_recommended(options: Mapping[str, Any]) -> None:
    """Raise ConfigError unless `options` are some of RECOMMENDABLE by name, with values in range.

    These are numbers, true or false; for `sampler` a name, for `guidance_interval` two numbers.
    """
    for name, value in options.items():
        if name not in RECOMMENDABLE or type(value) not in _RECOMMENDED_AS.get(name, (int, float, bool)):
            raise ConfigError(
                f"{brief(name)} is recommended to be {brief(value)}; expected a number, true or false for some of "
                f"{', '.join(RECOMMENDABLE)} (sampler: a name; guidance_interval: two numbers)"
            )
    GenerationConfig(**options)


def _valid(name: str, value: Any) -> Any:
    """The value of an option as it is kept. Raises ConfigError if it is none."""
    if name in _WHOLE:
        return _checked(name, value, *_WHOLE[name], whole=True)
    if name in _REAL:
        return _checked(name, value, *_REAL[name])
    if name in CHOICES:
        check_choice(name, value, CHOICES[name])
        return value
    if name == "guidance_interval":
        return _interval(value)
    if name == "fps":
        exact_rate(value)
        return value
    return check_flag(name, value)


def _interval(value: Any) -> tuple[float, float]:
    """The guidance interval as two floats. Raises ConfigError unless it is a list, tuple or (2,) array of such with
    0 <= low < high <= 1.
    """
    array = type(value).__name__ == "ndarray" and value.ndim == 1  # without importing NumPy
    try:
        if len(value) == 2 and (array or isinstance(value, (list, tuple))):
            low, high = (float(_checked("a bound", bound, 0, 1)) for bound in value)
            if low < high:
                return low, high
    except Exception:  # not a sequence, not numbers, or a user-defined type
        pass
    raise ConfigError(f"guidance_interval is {brief(value)}; expected two numbers, 0 <= low < high <= 1, as (0.0, 1.0)")
