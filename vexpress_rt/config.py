"""The options of a video, `GenerationConfig`, and checks of the values that callers pass."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from fractions import Fraction
from numbers import Integral, Real
from reprlib import Repr
from typing import Any, ParamSpec, Self, TypeVar

from vexpress_rt.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")

MIN_FPS, MAX_FPS = 1, 240  # of generated videos and of driving videos
RETARGET_MODES = ("no_retarget", "fix_face", "offset_retarget", "naive_retarget")
EXTENSION_MODES = ("stretch", "hold", "loop", "mirror")
CROP_MODES = ("face", "none")
SAMPLERS = ("ddim", "dpm++2m", "unipc")
REBUILD = ("auto", "never")  # whether to recompile TensorRT plans that do not fit the machine
WAVEFRONT, STEP_MAJOR = "wavefront", "step_major"
WINDOW_ORDERS = (WAVEFRONT, STEP_MAJOR)  # see `context_windows.walk`
MAX_THREADS = 1024

# Names used before version 0.1. Arguments with these names are refused, with a message that has the new name; manifests
# and checkpoints with them are still read.
RENAMED_OPTIONS = {"schedule": "window_order", "unconditional_every": "uncond_interval"}
RENAMED_VALUES = {"breadth": STEP_MAJOR}

# "exact" is the published pipeline. With the small model, 12 steps of UniPC are as close to the converged picture as 25
# of DDIM, and 6 as close as 8. All steps are guided: at equal cost, a few guided steps come closer to the converged
# picture than more steps with some unguided or reusing the unconditional prediction.
PRESETS: dict[str, dict[str, Any]] = {
    "exact": {"sampler": "ddim", "steps": 25, "guidance_interval": (0.0, 1.0), "uncond_interval": 1},
    "balanced": {"sampler": "unipc", "steps": 12, "guidance_interval": (0.0, 1.0), "uncond_interval": 1},
    "fast": {"sampler": "unipc", "steps": 6, "guidance_interval": (0.0, 1.0), "uncond_interval": 1},
}

# The smallest and the largest value of each option that is a number.
_INTEGER_RANGES: dict[str, tuple[int, float]] = {
    "steps": (1, 1000), "uncond_interval": (1, 1000), "overlap": (0, math.inf), "seed": (0, 2**64 - 1),
    "quality": (0, 51),
}  # fmt: skip
CHOICES = {"preset": tuple(PRESETS), "sampler": SAMPLERS, "extension": EXTENSION_MODES}
_REAL_RANGES = {
    "guidance_scale": (0, 100), "reference_attention_weight": (0, 10), "audio_attention_weight": (0, 10),
    "pose_weight": (0, 10), "depth_weight": (0, 10),
}  # fmt: skip

_REPR = Repr()
_REPR.maxstring, _REPR.maxother, _REPR.maxlong = 200, 1000, 1000  # characters


def brief(value: object) -> str:
    """Return a short representation of a value of any type for error messages, even if its `__repr__` fails."""
    try:
        return _REPR.repr(value)
    except Exception:  # an integer of thousands of digits, or a `__repr__` that fails
        return f"a {type(value).__name__}"


def is_number(value: object, *, whole: bool = False) -> bool:
    """Return whether a value is a number of Python or NumPy: a real one, or with `whole` an integer.

    False for bool, for NumPy's timedelta64, which NumPy registers as an integer, and for objects that fake `__class__`.

    Args:
        value: Any value.
        whole: Whether the number must be of an integer type.
    """
    kind = type(value)
    return issubclass(kind, Integral if whole else Real) and kind.__name__ not in ("bool", "timedelta64")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ConfigError unless `value` is one of `choices`.

    Args:
        name: Name of the option, for the message.
        value: The value found.
        choices: The values allowed.
    """
    if not isinstance(value, str) or value not in choices:
        renamed = RENAMED_VALUES.get(value) if isinstance(value, str) else None
        hint = f": {value} is called {renamed} now" if renamed in choices else ""
        raise ConfigError(f"{name} is {brief(value)}; expected one of {', '.join(choices)}{hint}")


def refuse_renamed(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function to raise ConfigError for keyword arguments under their former names.

    Args:
        function: A function with options as keyword arguments, under their present names.
    """
    renamed = {old: new for old, new in RENAMED_OPTIONS.items() if new in inspect.signature(function).parameters}

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        for old, new in renamed.items():
            if old in kwargs:
                raise ConfigError(f"the argument {old} is called {new} now: pass {new}=...")
        return function(*args, **kwargs)

    return checked


def check_threads(threads: object) -> int | None:
    """Return `threads` as an int; None stays None, for one thread per core.

    Args:
        threads: The value found.

    Raises:
        ConfigError: `threads` is neither None nor a whole number of 1 to MAX_THREADS.
    """
    if threads is None:
        return None
    try:
        return int(_checked("threads", threads, 1, MAX_THREADS, whole=True))
    except ConfigError as error:
        raise ConfigError(f"{error}, or None for one per core") from None


def check_progress(progress: object) -> Callable[[str, int, int], None]:
    """Return a progress callback; for None, a function that does nothing.

    Args:
        progress: The value found.

    Raises:
        ConfigError: `progress` is neither None nor callable.
    """
    if progress is None:
        return lambda stage, done, total: None
    if not callable(progress):
        raise ConfigError(f"progress is {brief(progress)}; expected a function of stage, done and total, or None")
    return progress


def check_flag(name: str, value: object) -> bool:
    """Return `value` as a bool.

    Args:
        name: Name of the option, for the message.
        value: The value found.

    Raises:
        ConfigError: `value` is not a bool of Python or NumPy.
    """
    if type(value).__name__ not in ("bool", "bool_"):  # without importing NumPy
        raise ConfigError(f"{name} is {brief(value)}; expected True or False")
    return bool(value)


def _checked(name: str, value: object, low: float, high: float, *, whole: bool = False) -> int | float:
    """Return a number of Python or NumPy as an int or float. Raises ConfigError if it is out of range."""
    kind = "a whole number" if whole else "a number"
    number = plain_number(value, whole=whole)
    if number is None or not low <= number <= high:
        upper = "" if math.isinf(high) else f" and at most {high}"
        raise ConfigError(f"{name} is {brief(value)}; expected {kind} of at least {low}{upper}")
    return number


def plain_number(value: Any, *, whole: bool = False) -> int | float | None:
    """Convert a number to int or float, because comparisons of float16 can overflow.

    Args:
        value: Any value.
        whole: As in `is_number`.

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
    """Return a frame rate as an exact fraction: 30 -> 30/1, 29.97 -> 30000/1001, "30000/1001" as written.

    Args:
        value: Frames per second, 1 to 240: a number, or a string with a number or a fraction.

    Raises:
        ConfigError: `value` is not a rate in this range.
    """
    rate = _fraction(value)
    if rate is None or not MIN_FPS <= rate <= MAX_FPS:
        raise ConfigError(
            f"fps is {brief(value)}; expected frames per second between {MIN_FPS} and {MAX_FPS}, "
            "as a number or a fraction"
        )
    broadcast = Fraction(round(rate * 1001 / 1000) * 1000, 1001)  # 23.976, 29.97, 59.94
    if rate.denominator != 1 and abs(rate - broadcast) < Fraction(1, 1000):
        return broadcast
    return rate.limit_denominator(1001)


def _fraction(value: object) -> Fraction | None:
    """Return a number, or a string of one, exactly; None for anything else. Exponents are refused: they can be huge."""
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
    """Options of a video. For an option that is None, the preset, the bundle or the default has the value.

    Precedence: argument, preset, bundle, default. A bundle can recommend other values for live sessions than for
    videos. The defaults are the published pipeline, see `Settings`. The command line has a flag for each option.

    Raises:
        ConfigError: A value is outside its range, or an option does not exist. ConfigError is a ValueError.
    """

    preset: str | None = field(
        default=None,
        metadata={
            "help": "Values of sampler, steps, guidance_interval and uncond_interval by one name: exact (the "
            "published pipeline), balanced or fast."
        },
    )
    steps: int | None = field(default=None, metadata={"help": "Denoising steps, 1 to 1000."})
    sampler: str | None = field(
        default=None,
        metadata={"help": "ddim (as the public implementation), or dpm++2m or unipc, which need fewer steps."},
    )
    guidance_scale: float | None = field(
        default=None,
        metadata={
            "help": "Scale of classifier-free guidance, 0 to 100; at 1 or less the conditional pass runs alone, "
            "which is faster."
        },
    )
    guidance_interval: tuple[float, float] | None = field(
        default=None,
        metadata={
            "help": "Part of the steps that are guided, from 0 (noise) to 1 (picture); in the other steps the "
            "conditional pass runs alone, which is faster."
        },
    )
    uncond_interval: int | None = field(
        default=None,
        metadata={
            "help": "Run the unconditional pass every N guided steps and reuse its prediction in between, which is "
            "faster; 1 to 1000."
        },
    )
    reference_attention_weight: float | None = field(
        default=None, metadata={"help": "Weight of the attention to the photo, 0 to 10 (useful: 0.9 to 1.0)."}
    )
    audio_attention_weight: float | None = field(
        default=None, metadata={"help": "Weight of the attention to the speech, 0 to 10 (useful: 1.0 to 3.0)."}
    )
    pose_weight: float | None = field(
        default=None, metadata={"help": "Weight of the keypoints' feature, 0 to 10; 0 leaves the keypoints out."}
    )
    depth_weight: float | None = field(
        default=None, metadata={"help": "Weight of the depth's feature, 0 to 10; 0 leaves the depth out."}
    )
    fps: float | Fraction | str | None = field(
        default=None,
        metadata={"help": "Frames per second, 1 to 240; 23.976, 29.97 and 59.94 mean the exact broadcast rates."},
    )
    overlap: int | None = field(
        default=None,
        metadata={
            "help": "Frames shared by neighbouring context windows, at least 0 and less than the bundle's window."
        },
    )
    seed: int = field(default=42, metadata={"help": "Seed of the noise, 0 to 2**64 - 1."})
    median_filter: bool | None = field(
        default=None,
        metadata={
            "help": "Apply the 3x3x3 median filter over time, rows and columns of the public implementation to the "
            "frames."
        },
    )
    noise_gate: bool | None = field(
        default=None,
        metadata={
            "help": "Replace sound without voice (hum, fans, room noise) by silence, so that it does not open the "
            "mouth; without it, all sound is raised to the level of speech, as in the public implementation."
        },
    )
    extension: str = field(
        default="stretch",
        metadata={
            "help": "How keypoints or depth maps that are shorter than the video are extended: stretch, as the public "
            "implementation, hold, loop or mirror."
        },
    )
    upstream_anchor: bool = field(
        default=False,
        metadata={"help": "Repeat the faulty search of the public implementation for the anchor frame of retargeting."},
    )
    quality: int = field(
        default=18,
        metadata={
            "help": "Constant rate factor (CRF) of libx264, 0 (lossless) to 51; smaller values give better and "
            "larger videos."
        },
    )

    def __new__(cls, **options: Any) -> Self:
        """Refuse unknown options with ConfigError before the generated __init__ raises TypeError."""
        names = [option.name for option in fields(cls)]
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
        """Frames per second, exactly; None if the bundle decides."""
        return None if self.fps is None else exact_rate(self.fps)

    def resolve(self, recommended: Mapping[str, Any], frames: int) -> Settings:
        """Return the value of every option for a bundle.

        Args:
            recommended: The options that the bundle recommends, some of RECOMMENDABLE.
            frames: Frames of the bundle's context window. Where nothing else sets the overlap, it is 4, or half of a
                window of less than 8 frames.

        Raises:
            ConfigError: The bundle recommends an unknown option or a value out of range, or the overlap does not fit
                the window.
        """
        check_recommended(recommended)
        preset = {} if self.preset is None else PRESETS[self.preset]
        options = {name: getattr(self, name) for name in OPTION_NAMES if name != "preset"}
        arguments = {name: value for name, value in options.items() if value is not None}
        default = {"overlap": min(Settings.overlap, frames // 2)}
        settings = Settings(**{**default, **recommended, **preset, **arguments})
        if settings.overlap >= frames:
            raise ConfigError(
                f"overlap is {settings.overlap}; expected less than the bundle's window of {frames} frames: "
                f"choose 0 to {frames - 1}, or use a bundle with longer windows"
            )
        return settings


@dataclass(frozen=True, kw_only=True)
class Settings(GenerationConfig):
    """A configuration with a value for every option.

    Its defaults are the published V-Express pipeline (arXiv 2406.02511). `preset` is None, because the other options
    already have its values.

    Raises:
        ConfigError: As for GenerationConfig, and for a preset.
    """

    steps: int = 25
    sampler: str = "ddim"
    guidance_scale: float = 3.5
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    uncond_interval: int = 1
    reference_attention_weight: float = 0.95
    audio_attention_weight: float = 3.0
    pose_weight: float = 1.0
    depth_weight: float = 1.0
    fps: float | Fraction | str = 30
    overlap: int = 4
    median_filter: bool = True
    noise_gate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset is not None:
            raise ConfigError(
                f"preset is {self.preset!r}; expected None in Settings, which have a value for every option: use "
                f"GenerationConfig(preset={self.preset!r})"
            )

    @property
    def rate(self) -> Fraction:
        """Frames per second, exactly."""
        return exact_rate(self.fps)


def option_help(name: str) -> str:
    """Return the description of an option of GenerationConfig, one sentence.

    Args:
        name: One of OPTION_NAMES.
    """
    return str(GenerationConfig.__dataclass_fields__[name].metadata["help"])


def _document() -> None:
    """Add the descriptions of the options to the docstring of GenerationConfig."""
    usual = {option.name: option.default for option in fields(Settings)}
    lines = [
        f"    {option.name}: {option_help(option.name)} Default: {usual[option.name]!r}."
        for option in fields(GenerationConfig)
    ]
    before, raises, after = inspect.cleandoc(GenerationConfig.__doc__ or "").partition("Raises:")
    GenerationConfig.__doc__ = before + "Args:\n" + "\n".join(lines) + f"\n\n{raises}{after}\n"


_document()

OPTION_NAMES = tuple(option.name for option in fields(GenerationConfig))
RECOMMENDABLE = tuple(
    option.name for option in fields(Settings) if option.default != getattr(GenerationConfig, option.name)
)
_RECOMMENDED_TYPES: dict[str, tuple[type, ...]] = {"sampler": (str,), "guidance_interval": (list, tuple)}


def current_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a file under their present names; some may have former ones.

    Args:
        options: The options by name, as the file has them.
    """
    renamed = {old: new for old, new in RENAMED_OPTIONS.items() if new not in options}
    return {renamed.get(name, name): value for name, value in options.items()}


def check_recommended(options: Mapping[str, Any]) -> None:
    """Check the options that a bundle recommends.

    Args:
        options: Some of RECOMMENDABLE by name. Values are numbers, true or false; a name for `sampler`, and two numbers
            for `guidance_interval`.

    Raises:
        ConfigError: An option has another name, or a value of another type or outside its range.
    """
    for name, value in options.items():
        if name not in RECOMMENDABLE or type(value) not in _RECOMMENDED_TYPES.get(name, (int, float, bool)):
            raise ConfigError(
                f"{brief(name)} is recommended to be {brief(value)}; expected a number, true or false for some of "
                f"{', '.join(RECOMMENDABLE)} (sampler: a name; guidance_interval: two numbers)"
            )
    GenerationConfig(**options)


def check_recommendations(recommended: Mapping[str, Any], recommended_live: Mapping[str, Any], frames: int) -> None:
    """Check what a bundle recommends for videos, and for live sessions.

    Args:
        recommended: The options for videos, and for live sessions where `recommended_live` lacks them.
        recommended_live: The options for live sessions.
        frames: Frames of the bundle's context window.

    Raises:
        ConfigError: As of `GenerationConfig.resolve`; a fault in the options for live sessions is named as such.
    """
    GenerationConfig().resolve(recommended, frames)
    try:
        GenerationConfig().resolve({**recommended, **recommended_live}, frames)
    except ConfigError as error:
        raise ConfigError(f"recommended_live: {error}") from error


def _valid(name: str, value: Any) -> Any:
    """Return the value of an option as it is stored. Raises ConfigError if it is outside its range."""
    if name in _INTEGER_RANGES:
        return _checked(name, value, *_INTEGER_RANGES[name], whole=True)
    if name in _REAL_RANGES:
        return _checked(name, value, *_REAL_RANGES[name])
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
    """Return the guidance interval as two floats. Raises ConfigError unless 0 <= low < high <= 1."""
    array = type(value).__name__ == "ndarray" and value.ndim == 1  # without importing NumPy
    try:
        if len(value) == 2 and (array or isinstance(value, (list, tuple))):
            low, high = (float(_checked("a bound", bound, 0, 1)) for bound in value)
            if low < high:
                return low, high
    except Exception:  # not a sequence, not numbers, or a user-defined type
        pass
    raise ConfigError(f"guidance_interval is {brief(value)}; expected two numbers, 0 <= low < high <= 1, as (0.0, 1.0)")
