"""Options of a build: settings of TensorRT's builder, and the sizes that open dims may take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from vexpress_rt.bundle.compilation import TEXT_LIMIT
from vexpress_rt.bundle.engine_spec import AUDIO_SECONDS, ModelConfig, TensorSpec
from vexpress_rt.bundle.untrusted_json import parse, plain_name, record
from vexpress_rt.errors import BundleDamagedError, ConfigError

LEVELS = range(6)  # of the builder's optimization
WORKSPACE_MINIMUM, WORKSPACE_MAXIMUM = 1 << 20, 1 << 50  # bytes; the maximum is beyond any GPU and fits in 64 bits
# Lengths of a clip for one run of the audio encoder. Activations are sized for the longest, kernels are chosen for the
# typical one; wav2vec 2.0 returns its first feature for 400 samples.
AUDIO_MINIMUM_SAMPLES = 400
AUDIO_TYPICAL_SECONDS = 5
AUDIO_RATE = 16000
SIZE_LIMIT = 1 << 28  # of an open dim in a record; plausible engines stay below


@dataclass(frozen=True)
class Range:
    """Sizes that an open dim may take.

    Attributes:
        minimum: The smallest size, at least 1.
        typical: The size to optimize for.
        maximum: The largest size.

    Raises:
        ConfigError: The sizes are not in ascending order.
    """

    minimum: int
    typical: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.typical <= self.maximum:
            raise ConfigError(
                f"the sizes of an open dim are {self.minimum}, {self.typical}, {self.maximum}; expected the smallest, "
                "at least 1, then the typical, then the largest"
            )


def audio_range(
    model: ModelConfig | None = None, *, typical: float = AUDIO_TYPICAL_SECONDS, maximum: float = AUDIO_SECONDS
) -> Range:
    """Return the range of N, the number of samples in one run of a model's audio encoder.

    Args:
        model: The model; None for the released one.
        typical: Typical length of a clip, seconds.
        maximum: Largest length of a clip, seconds.

    Raises:
        ConfigError: The lengths are not in ascending order.
    """
    least = AUDIO_MINIMUM_SAMPLES if model is None else model.audio_minimum_samples
    rate = AUDIO_RATE if model is None else model.sample_rate
    return Range(least, round(typical * rate), round(maximum * rate))


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of a build.

    Attributes:
        optimization_level: 0 (fastest build) to 5 (most kernels tried); TensorRT's default is 3. TensorRT for RTX tries
            no kernels and builds the same engine at every level.
        workspace_bytes: Limit of the scratch memory of one kernel on the GPU, 1 MiB to 1 PiB; None for all of the GPU's
            memory.
        hardware_compatible: Build for all GPUs from Ampere on, not only for this machine's; such engines are slower.
            TensorRT for RTX always does so.
        tf32: Allow float32 products with 10 bits of mantissa.
        ranges: Sizes of open dims, by the letter of the dim in `engine_spec`.
        timing_cache: File of timings that later builds reuse; it is created if missing. It has no effect on results,
            and none at all with TensorRT for RTX.

    Raises:
        ConfigError: The level or the limit is out of range.
    """

    optimization_level: int = 3
    workspace_bytes: int | None = None
    hardware_compatible: bool = False
    tf32: bool = False
    ranges: Mapping[str, Range] = field(default_factory=lambda: {"N": audio_range()})
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        level, limit = self.optimization_level, self.workspace_bytes
        if type(level) is not int or level not in LEVELS:
            raise ConfigError(
                f"optimization_level is {brief(level)}; expected {LEVELS[0]} (fastest build) to {LEVELS[-1]} (most "
                "tried)"
            )
        if limit is not None and (type(limit) is not int or not WORKSPACE_MINIMUM <= limit <= WORKSPACE_MAXIMUM):
            raise ConfigError(
                f"workspace_bytes is {brief(limit)}; expected {WORKSPACE_MINIMUM} (1 MiB) to {WORKSPACE_MAXIMUM} "
                "(1 PiB), or None: no limit"
            )

    def shapes(self, tensor: TensorSpec) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return the smallest, the typical and the largest shape of a tensor.

        Args:
            tensor: An input of an engine.

        Raises:
            ConfigError: An open dim has no range.
        """
        dims = list(zip(tensor.dims, tensor.shape, strict=True))
        if unknown := [dim for dim, size in dims if size is None and dim not in self.ranges]:
            raise ConfigError(
                f"{tensor.describe()} leaves {', '.join(unknown)} open; expected its sizes in the option ranges, which "
                f"has {', '.join(self.ranges) or 'none'}"
            )
        ranges = [self.ranges[dim] if size is None else Range(size, size, size) for dim, size in dims]
        smallest, typical, largest = ([getattr(r, end) for r in ranges] for end in ("minimum", "typical", "maximum"))
        return tuple(smallest), tuple(typical), tuple(largest)

    def to_json(self) -> dict[str, Any]:
        """Return the options that change an engine, as JSON values. Equal options give interchangeable engines."""
        data = asdict(self)
        del data["timing_cache"]
        return data

    def to_text(self) -> str:
        """Return `to_json` as text, equal for equal options."""
        return json.dumps(self.to_json(), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> EngineOptions:
        """Parse the result of `to_text`; the text may come from an untrusted bundle.

        Args:
            text: JSON of any content.

        Raises:
            ConfigError: The text is malformed.
        """
        try:
            data = parse(text.encode("utf-8", "surrogatepass"), TEXT_LIMIT)
            names = {f.name for f in fields(cls)} - {"timing_cache"}
            if type(data) is not dict or data.keys() != names:
                raise ValueError(f"expected the options {', '.join(sorted(names))}")
            if not all(type(data[name]) is bool for name in ("hardware_compatible", "tf32")):
                raise ValueError("expected true or false for hardware_compatible and tf32")
            ranges = {plain_name(dim, "ranges"): _range(sizes) for dim, sizes in data.pop("ranges").items()}
            return cls(**data, ranges=ranges)
        except (ValueError, TypeError, AttributeError, BundleDamagedError) as error:  # ConfigError is a ValueError
            raise ConfigError(f"{brief(text)} are no options of TensorRT's builder: {error}") from error


def _range(data: object) -> Range:
    sizes = record(data, "an open dim", {"minimum": int, "typical": int, "maximum": int})
    if max(sizes.values()) > SIZE_LIMIT:
        raise ValueError(f"the sizes of an open dim are {brief(sizes)}; expected at most {SIZE_LIMIT}")
    return Range(**sizes)
