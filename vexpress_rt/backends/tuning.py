"""Tuning: measure which provider runs a bundle fastest on this CPU, in the bundle's precision.

Calls of the providers alternate, so that a machine that becomes slower or faster affects all of them. A `TuningRecord`
stores the result for `provider="auto"`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from statistics import median, quantiles
from time import perf_counter, sleep

import numpy as np

from vexpress_rt.backends.base import Array, Engine
from vexpress_rt.backends.provider import EngineLoader, Progress
from vexpress_rt.backends.registry import tunable_providers
from vexpress_rt.backends.tuning_record import TuningRecord, write_tuning
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.bundle.engine_spec import EngineSpec
from vexpress_rt.config import GenerationConfig, check_flag, check_progress, check_threads
from vexpress_rt.errors import BackendError, ConfigError, OutputError
from vexpress_rt.utils.cpu_load import busy_cpus
from vexpress_rt.utils.cpu_model import cpu_model
from vexpress_rt.utils.cpus import ThreadLimit, limit_threads
from vexpress_rt.utils.memory_budget import Need, check_memory, free_memory
from vexpress_rt.utils.paths import folder_path

MARGIN = 1.05  # a provider must be at least this many times as fast as the default
ROUNDS = (5, 25)  # calls of an engine by each provider
BUDGET = 8.0  # seconds for the calls of one engine, where ROUNDS allows it
PAUSE = 0.03  # seconds before each call, in which the threads of the previous library stop spinning
FREE_SHARE = 0.75  # of one CPU for each thread
# Largest root mean square difference to the default provider's results, relative to their root mean square. In float16
# graphs, libraries may round intermediate results at different places.
TOLERANCES = {"fp32": 1e-4, "fp16": 5e-3}
LEVELS = 1  # largest difference of two uint8 values of a frame
_COPIES = 2  # of an engine's weights in a library: as read and as packed for its products

_log = logging.getLogger("vexpress_rt")


@dataclass(frozen=True)
class Tuning:
    """The result of tuning.

    Attributes:
        provider: Name of the provider that `provider="auto"` selects from now on for this bundle, on this CPU and with
            this number of threads, where no GPU runs it.
        reason: What was measured, as text.
        calls: Median seconds of a call: engine -> provider -> seconds.
        frame: Seconds of denoising and decoding for a frame of video with the bundle's settings, by provider; the first
            is the one that "auto" selects without tuning.
        cpu: The CPU.
        threads: CPU threads.
        stored: Whether the user's cache stores the result. Without it, "auto" selects as without tuning.
    """

    provider: str
    reason: str
    calls: Mapping[str, Mapping[str, float]]
    frame: Mapping[str, float]
    cpu: str
    threads: int
    stored: bool

    def describe(self) -> str:
        """Return a table of the times, and the provider that "auto" selects from now on."""
        names = list(self.frame)
        rows = [("milliseconds", *names)]
        rows += [(engine, *(_milliseconds(times.get(name)) for name in names)) for engine, times in self.calls.items()]
        rows += [("a frame of video", *(_milliseconds(self.frame[name]) for name in names))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(names) + 1)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]
        outcome = f"auto selects {self.provider} from now on: {self.reason}"
        if not self.stored:
            outcome = (
                f"auto would select {self.provider} ({self.reason}), but the user's cache does not store the result: "
                "see docs/deployment.md, or pass the provider by name"
            )
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return "\n".join([f"{self.cpu}, {threads}; median times of alternating calls", *lines, outcome])


def tune(
    bundle: str | os.PathLike[str] | None = None, *, threads: int | None = None, force: bool = False,
    progress: Progress | None = None,
) -> Tuning:  # fmt: skip
    """Measure which provider runs a bundle's engines fastest on this CPU, and store the result for `provider="auto"`.

    The denoiser and the decoder run on random inputs in the bundle's own precision, by each provider in turn. For the
    small bundle of this package that takes less than a minute. A provider replaces the one that "auto" selects without
    tuning only if it is at least 5 % faster, is faster in three quarters of the calls, and gives the same results.

    Args:
        bundle: Folder of the bundle; None for the small bundle of this package.
        threads: CPU threads, as for `Generator`. The result holds for a generator with as many threads.
        force: Measure although other programs keep the CPUs busy.
        progress: Called with the stage "tune", the steps done and the total steps.

    Returns:
        The times of each provider, and the one that "auto" selects from now on.

    Raises:
        BundleError: The bundle is missing, damaged, or lacks an engine.
        ConfigError: An argument is outside its range, or memory is too small for tuning.
        BackendError: Fewer than two providers run the bundle on this CPU, or the machine is busy.
    """
    check_threads(threads)
    check_flag("force", force)
    report = check_progress(progress)
    opened = Bundle.open(shipped_bundle() if bundle is None else folder_path(bundle, "the bundle"))
    limit, calls = limit_threads(threads), _calls_of_a_frame(opened)
    opened.require(calls)
    loaders, failures = _open_loaders(opened)
    _check_comparable(loaders, failures)
    _check_idle(limit, force=force)
    measured = {}
    for number, name in enumerate(calls):
        report("tune", number, len(calls))
        measured[name] = _measure_engine(opened, name, loaders, threads, failures)
        _check_comparable(loaders, failures)
    report("tune", len(calls), len(calls))
    _check_idle(limit, force=force)
    return _conclude(opened, threads, loaders, measured, calls, failures)


@dataclass
class _Measurement:
    """Seconds of each call of one engine, and its first outputs, by provider."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    outputs: dict[str, Mapping[str, Array]] = field(default_factory=dict)


def _calls_of_a_frame(bundle: Bundle) -> dict[str, float]:
    """Return how often a new frame of video runs each engine, with the settings that the bundle recommends."""
    settings = bundle.manifest.settings(GenerationConfig())
    denoiser = "denoiser" if settings.guidance_scale > 1 else "denoiser_cond"
    return {denoiser: settings.steps / (bundle.manifest.shape.frames - settings.overlap), "vae_decoder": 1.0}


def _open_loaders(bundle: Bundle) -> tuple[dict[str, EngineLoader], dict[str, str]]:
    """Return the loaders by provider, the one without tuning first, and the reasons against the other providers."""
    loaders, failures = {}, {}
    for provider in tunable_providers():
        try:
            loaders[provider.name] = provider.open(bundle, supported_only=True)
        except (ConfigError, BackendError, OutputError) as error:
            failures[provider.name] = str(error)
    return loaders, failures


def _check_comparable(loaders: Mapping[str, EngineLoader], failures: Mapping[str, str]) -> None:
    left = [name for name in loaders if name not in failures]
    if len(left) < 2:
        reasons = "; ".join(f"not {name}, since {reason}" for name, reason in failures.items())
        raise BackendError(
            f"there is nothing to compare: {' and '.join(left) or 'no provider'} can run the bundle on this CPU; "
            f"expected two providers or more: {reasons}"
        )


def _check_idle(limit: ThreadLimit, *, force: bool) -> None:
    """Raise BackendError if other programs leave too little of the CPUs, unless `force` is set."""
    count, busy = os.cpu_count() or 1, busy_cpus()
    if busy is not None and count - busy < FREE_SHARE * limit.threads and not force:
        raise BackendError(
            f"other programs keep {busy:.1f} of {count} CPUs busy; expected {FREE_SHARE * limit.threads:.1f} CPUs free "
            f"for tuning with {limit.describe()}: wait until the machine is idle, or pass --force (force=True)"
        )


def _measure_engine(
    bundle: Bundle, name: str, loaders: Mapping[str, EngineLoader], threads: int | None, failures: dict[str, str]
) -> _Measurement:
    """Run one engine by each provider in turn; a provider that fails is added to `failures`."""
    left = [provider for provider in loaders if provider not in failures]
    _check_room(bundle, name, len(left))
    measurement, inputs = _Measurement(), random_inputs(bundle.specs[name])
    engines: dict[str, Engine] = {}
    try:
        for provider in left:
            try:
                engines[provider] = loaders[provider].load(name, threads=threads)
                measurement.outputs[provider] = engines[provider].run(inputs)
                measurement.seconds[provider] = []
            except BackendError as error:
                failures[provider] = str(error)
                if provider in engines:
                    engines.pop(provider).close()
        if len(engines) > 1:
            _take_turns({provider: _call(engine, inputs) for provider, engine in engines.items()}, measurement.seconds)
    finally:
        for engine in engines.values():
            engine.close()
    return measurement


def _call(engine: Engine, inputs: Mapping[str, Array]) -> Callable[[], object]:
    return lambda: engine.run(inputs)


def _take_turns(calls: Mapping[str, Callable[[], object]], seconds: Mapping[str, list[float]]) -> None:
    """Call each function in turn, each round in the opposite order, and append the seconds of each call."""
    first = sum(_seconds_of(call) for call in calls.values())  # not counted: a library's first calls are slower
    least, most = ROUNDS
    names = list(calls)
    for number in range(max(least, min(most, int(BUDGET / max(first, 1e-6))))):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(_seconds_of(calls[name]))


def _seconds_of(call: Callable[[], object]) -> float:
    sleep(PAUSE)
    start = perf_counter()
    call()
    return perf_counter() - start


def _check_room(bundle: Bundle, name: str, providers: int) -> None:
    weights = sum(bundle.manifest.files[file].bytes for file in bundle.manifest.engines[name].files)
    need = Need(
        providers * _COPIES * weights, f"{name} in {providers} libraries at once", "close other programs, or use a "
        "smaller bundle"
    )  # fmt: skip
    check_memory("tuning", [need], free_memory())


def random_inputs(spec: EngineSpec) -> dict[str, Array]:
    """Return inputs of an engine, the same in each call: normal noise, and uint8 values from 0 to 255.

    Args:
        spec: The engine's inputs; each size is fixed.
    """
    rng = np.random.default_rng(0)
    inputs: dict[str, Array] = {}
    for tensor in spec.inputs:
        shape = tuple(size or 1 for size in tensor.shape)
        if tensor.dtype == "uint8":
            inputs[tensor.name] = rng.integers(0, 256, shape, np.uint8)
        else:
            inputs[tensor.name] = rng.standard_normal(shape, np.float32).astype(tensor.dtype)
    return inputs


def disagreement(expected: Mapping[str, Array], found: Mapping[str, Array], tolerance: float) -> str:
    """Return how the outputs of an engine differ by more than rounding, as text; empty if they agree.

    Args:
        expected: The default provider's outputs.
        found: Another provider's outputs, with the same names and shapes.
        tolerance: Largest root mean square difference, relative to the root mean square of `expected`.
    """
    for name, values in expected.items():
        a, b = values.astype(np.float64), found[name].astype(np.float64)
        if values.dtype == np.uint8:
            if (worst := float(np.abs(a - b).max())) > LEVELS:
                return f"{name} differs by up to {worst:g} of 255; expected at most {LEVELS}"
            continue
        scale = math.sqrt(float(np.mean(np.square(a)))) or 1.0
        error = math.sqrt(float(np.mean(np.square(a - b)))) / scale
        if not error <= tolerance:  # also where one is not a number
            return f"{name} differs by {error:.1e} of its root mean square; expected at most {tolerance:.0e}"
    return ""


@dataclass(frozen=True)
class Comparison:
    """A provider against the default one.

    Attributes:
        ratio: How many times as fast it makes a frame.
        least: The same by the first quartile of the ratios of neighbouring calls: three quarters of them are higher.
    """

    ratio: float
    least: float

    @property
    def faster(self) -> bool:
        """Whether it is faster by the margin, and by more than the calls' spread."""
        return self.ratio >= MARGIN and self.least > 1


def compare(
    seconds: Mapping[str, Mapping[str, list[float]]], calls: Mapping[str, float], default: str, other: str
) -> Comparison:
    """Compare the time of a frame of video by two providers.

    Args:
        seconds: engine -> provider -> seconds of each call; calls of the same number are neighbours.
        calls: How often a frame runs each engine.
        default: The provider to compare with.
        other: The provider.
    """
    whole = faster = slower = 0.0
    for engine, count in calls.items():
        base, others = seconds[engine][default], seconds[engine][other]
        ratios = [a / b for a, b in zip(base, others, strict=True)]
        whole += count * median(base)
        faster += count * median(base) / median(ratios)
        slower += count * median(base) / quantiles(ratios, n=4, method="inclusive")[0]
    return Comparison(whole / faster, whole / slower)


def _conclude(
    bundle: Bundle, threads: int | None, loaders: Mapping[str, EngineLoader], measured: Mapping[str, _Measurement],
    calls: Mapping[str, float], failures: Mapping[str, str],
) -> Tuning:  # fmt: skip
    """Select the provider, and store the record."""
    names = [name for name in loaders if name not in failures]
    default = names[0]
    seconds = {engine: measurement.seconds for engine, measurement in measured.items()}
    tolerance = TOLERANCES.get(bundle.manifest.precision, min(TOLERANCES.values()))
    chosen, best, why = default, 1.0, ""
    against = [f"{name} failed: {reason}" for name, reason in failures.items() if name in loaders]
    for name in names[1:]:
        differences = (disagreement(t.outputs[default], t.outputs[name], tolerance) for t in measured.values())
        if fault := next(filter(None, differences), ""):
            _log.warning("the results of %s do not agree with those of %s: %s", name, default, fault)
            against.append(f"{name} is not used, since {fault}")
            continue
        found = compare(seconds, calls, default, name)
        text = (
            f"{found.ratio:.2f} times as fast as {default} (at least {found.least:.2f} in three quarters of the calls)"
        )
        if found.faster and found.ratio > best:
            chosen, best, why = name, found.ratio, f"{name} is {text}"
        elif not found.faster:
            against.append(f"{name} is not faster: {text}")
    libraries = {p.name: p.describe_library(bundle.manifest.target) for p in tunable_providers() if p.name in names}
    cpu, limit = cpu_model().describe(), limit_threads(threads)
    reason = _printable(f"measured on {cpu} on {date.today().isoformat()}: {'; '.join(filter(None, [why, *against]))}")
    stored = write_tuning(
        bundle, threads, TuningRecord(chosen, reason, {name: libraries[name] for name in {default, chosen}})
    )
    return Tuning(
        provider=chosen,
        reason=reason,
        calls={engine: {name: median(seconds[engine][name]) for name in names} for engine in measured},
        frame={name: sum(n * median(seconds[engine][name]) for engine, n in calls.items()) for name in names},
        cpu=cpu,
        threads=limit.threads,
        stored=stored,
    )


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:1500]


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.1f}"
