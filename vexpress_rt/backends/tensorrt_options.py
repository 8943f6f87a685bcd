"""How engines are built: options that change an engine, and the sizes that its open dims may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vexpress_rt.errors import ConfigError
from vexpress_rt.specs import ModelConfig, TensorSpec

LEVELS = range(6)  # of optimisation
# What one run of the audio encoder may be given. Its activations are sized for the longest, its kernels are chosen for
# the typical; wav2vec 2.0 gives its first feature for 400 samples.
AUDIO_MINIMUM_SAMPLES = 400
AUDIO_TYPICAL_SECONDS = 5
AUDIO_MAXIMUM_SECONDS = 60
AUDIO_RATE = 16000


@dataclass(frozen=True)
class Range:
    """Sizes that an open dim may take, and the one to optimise for. Raises ConfigError unless they are in order."""

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
    model: ModelConfig | None = None, *, typical: float = AUDIO_TYPICAL_SECONDS, maximum: float = AUDIO_MAXIMUM_SECONDS
) -> Range:
    """Numbers of samples N that one run of a model's audio encoder may be given; times in seconds.

    Without a model those of the released one. Raises ConfigError unless the typical and the longest time are in order.
    """
    least = AUDIO_MINIMUM_SAMPLES if model is None else model.audio_minimum_samples
    rate = AUDIO_RATE if model is None else model.sample_rate
    return Range(least, round(typical * rate), round(maximum * rate))


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of a build.

    optimization_level: 0 (soonest built) to 5 (most kernels tried), 3 being TensorRT's default. TensorRT for RTX, which
        tries none, builds the same engine at every level.
    workspace_bytes: limit of the scratch memory of one kernel on the GPU; None is all that the GPU has.
    hardware_compatible: for all GPUs from Ampere on, not just the one at hand; slower. TensorRT for RTX always does so.
    compute_capabilities: for TensorRT for RTX, GPUs to build for, as "8.9"; empty for all from Ampere on.
    tf32: allow float32 products with 10 bits of mantissa.
    ranges: sizes of open dims, by the letter that `specs.py` gives the dim.
    timing_cache: file of timings that later builds reuse, made if it is not there; only of use for TensorRT. Has no
        effect on what an engine computes.

    Raises ConfigError for a level or limit out of range.
    """

    optimization_level: int = 3
    workspace_bytes: int | None = None
    hardware_compatible: bool = False
    compute_capabilities: tuple[str, ...] = ()
    tf32: bool = False
    ranges: Mapping[str, Range] = field(default_factory=lambda: {"N": audio_range()})
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        level, limit = self.optimization_level, self.workspace_bytes
        if type(level) is not int or level not in LEVELS:
            raise ConfigError(
                f"optimization_level is {level!r}; expected {LEVELS[0]} (soonest built) to {LEVELS[-1]} (most tried)"
            )
        if limit is not None and (type(limit) is not int or limit < 1 << 20):
            raise ConfigError(f"workspace_bytes is {limit!r}; expected at least {1 << 20} (1 MiB), or None: no limit")

    def shapes(self, tensor: TensorSpec) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Smallest, typical and largest shape of a tensor. Raises ConfigError for an open dim without a range."""
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
        """What changes an engine, as plain values: engines of one graph with equal options can stand for each other."""
        data = asdict(self)
        del data["timing_cache"]
        return {**data, "compute_capabilities": list(self.compute_capabilities)}
