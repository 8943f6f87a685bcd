"""Stand-in providers on the CPU whose calls take set times on a clock that only they and sleep advance."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pytest

from tests.doubles.fakes import COMPUTE, FakeEngine
from vexpress_rt.backends import registry, tuning
from vexpress_rt.backends.base import Array, Engine, SharedExecutor, Tensor
from vexpress_rt.backends.provider import EngineLoader, Progress, Provider
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.errors import BackendError, BackendMissingError
from vexpress_rt.utils.cpus import ThreadLimit


class Clock:
    """A clock in seconds.

    Attributes:
        log: (provider, engine) of every call.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[tuple[str, str]] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def install(self, monkeypatch: pytest.MonkeyPatch, *providers: TimedProvider) -> None:
        """Put the clock into tuning, and the providers, the default first, into the registry."""
        for provider in providers:
            provider.clock = self
        monkeypatch.setattr(tuning, "perf_counter", self)
        monkeypatch.setattr(tuning, "sleep", self.sleep)
        monkeypatch.setattr(tuning, "busy_cpus", lambda: 0.0)
        monkeypatch.setattr(registry, "PROVIDERS", providers)


class TimedProvider(Provider):
    """A provider whose calls take the seconds that it is given.

    Args:
        name: Its name.
        seconds: Seconds of one call after the other, by engine; they repeat.

    Attributes:
        version: Version of its library; None if it is not installed.
        error: Added to the outputs, in units of their root mean square; to those of uint8 in levels.
        broken: Engines that cannot be loaded.
        opened: How often a bundle was opened.
        engines: The engines that were loaded.
    """

    advantage = "it is timed"
    targets = ("onnxruntime",)
    precisions = ("fp32",)
    tunable = True

    def __init__(self, name: str, **seconds: float | list[float]) -> None:
        self.name = name  # type: ignore[misc]
        self.seconds = {
            engine: cycle(given if isinstance(given, list) else [given]) for engine, given in seconds.items()
        }
        self.version: str | None = "1.0"
        self.error: dict[str, float] = {}
        self.broken: set[str] = set()
        self.opened = 0
        self.engines: list[TimedEngine] = []
        self.clock = Clock()

    def open(
        self,
        bundle: Bundle,
        *,
        device: str | None = None,
        precision: str | None = None,
        rebuild: str = "auto",
        progress: Progress | None = None,
        supported_only: bool = False,
    ) -> EngineLoader:
        self.check_installed("")
        self.opened += 1
        return TimedLoader(self, bundle)

    def check_installed(self, target: str) -> None:
        if self.version is None:
            raise BackendMissingError(f"{self.name} is not installed")

    def describe_library(self, target: str) -> str:
        self.check_installed(target)
        return f"{self.name.title()} {self.version}"

    def describe_device(self, limit: ThreadLimit, device: str | None = None) -> str:
        return "a clock"


class TimedLoader(EngineLoader):
    def __init__(self, provider: TimedProvider, bundle: Bundle) -> None:
        self.provider, self.bundle = provider, bundle

    def load(
        self,
        name: str,
        *,
        threads: int | None = None,
        executor: SharedExecutor | None = None,
        share_weights: bool = False,
    ) -> Engine:
        if name in self.provider.broken:
            raise BackendError(f"{name} is\nbroken")
        engine = TimedEngine(self.provider, self.bundle, name)
        self.provider.engines.append(engine)
        return engine


class TimedEngine(FakeEngine):
    def __init__(self, provider: TimedProvider, bundle: Bundle, name: str) -> None:
        super().__init__(bundle.specs[name], COMPUTE[name])
        self.provider, self.name = provider, name

    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool = False) -> dict[str, Any]:
        outputs = super().run(inputs, keep_on_device=keep_on_device)
        self.provider.clock.log.append((self.provider.name, self.name))
        self.provider.clock.sleep(next(self.provider.seconds[self.name]))
        error = self.provider.error.get(self.name, 0.0)
        return {name: _shifted(array, error) for name, array in outputs.items()} if error else outputs


def _shifted(array: Array, error: float) -> Array:
    if array.dtype == np.uint8:
        return (array.astype(int) + int(error)).clip(0, 255).astype(np.uint8)
    shifted: Array = array + np.asarray(error * np.sqrt(np.square(array.astype(np.float64)).mean()), array.dtype)
    return shifted
