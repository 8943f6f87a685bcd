"""A provider that this package does not know: a class of its own and an entry in the registry are enough."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.doubles.fakes import COMPUTE, DETECTOR_SPEC, FakeBackend, FakeEngine
from tests.support.scenes import FAST, frames_of, photo, speech
from vexpress_rt.backends import registry
from vexpress_rt.backends.base import Engine
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.provider import EngineLoader, Progress, Provider
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.errors import BackendMissingError, ConfigError
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.utils.cpus import ThreadLimit


class AbacusProvider(Provider):
    """Computes engines in Python."""

    name = "abacus"
    advantage = "it needs no library"
    targets = ("onnxruntime",)
    precisions = ("fp32",)

    def open(
        self, bundle: Bundle, *, rebuild: str = "auto", progress: Progress | None = None, supported_only: bool = False
    ) -> EngineLoader:
        if bundle.manifest.precision not in self.precisions:
            raise ConfigError(f"an abacus does not compute in {bundle.manifest.precision}")
        return AbacusLoader(bundle)

    def check_installed(self, target: str) -> None:
        if target not in self.targets:
            raise BackendMissingError("an abacus runs no plans")

    def describe_library(self, target: str) -> str:
        return "Abacus 1.0"

    def describe_device(self, limit: ThreadLimit) -> str:
        return "ten fingers"


class AbacusLoader(EngineLoader):
    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def load(
        self, name: str, *, threads: int | None = None, executor: Executor | None = None, share_weights: bool = False
    ) -> Engine:
        assert executor is None  # the provider makes none
        return FakeEngine(self.bundle.specs.get(name) or DETECTOR_SPEC, COMPUTE[name])


@pytest.fixture
def abacus(monkeypatch: pytest.MonkeyPatch) -> AbacusProvider:
    """An abacus, as the last of all providers."""
    made = AbacusProvider()
    monkeypatch.setattr(registry, "PROVIDERS", (*registry.PROVIDERS, made))
    return made


def video(bundle: Path, provider: str) -> np.ndarray:
    with Generator(bundle, provider=provider) as generator:
        return frames_of(generator.generate(photo(), speech(), config=FAST))


def test_a_bundle_runs_with_it(abacus: AbacusProvider, backend: FakeBackend, fake_bundle: Path) -> None:
    frames = video(fake_bundle, "abacus")
    assert backend.loads == []
    np.testing.assert_array_equal(frames, video(fake_bundle, "cpu"))


def test_a_generator_describes_it(abacus: AbacusProvider, fake_bundle: Path) -> None:
    with Generator(fake_bundle, provider="abacus") as generator:
        text = generator.describe()
    assert all(words in text for words in ("abacus (requested)", "ten fingers", "on the CPU", ", Abacus 1.0"))


def test_auto_takes_the_first_provider_that_can_run_the_bundle(
    abacus: AbacusProvider, backend: FakeBackend, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(fake_bundle)
    assert registry.choose("auto", bundle).name == "cpu"
    monkeypatch.setattr(registry, "PROVIDERS", registry.PROVIDERS[::-1])
    chosen = registry.choose("auto", bundle)
    assert (chosen.provider, chosen.reason) == (abacus, "it needs no library")


def test_an_unknown_provider_is_refused_with_the_names_of_all(abacus: AbacusProvider, fake_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="provider is 'slide rule'; expected one of auto, tensorrt, cuda, cpu, abac"):
        registry.choose("slide rule", Bundle.open(fake_bundle))


def test_providers_are_known_without_their_libraries() -> None:
    code = (
        "import sys\n"
        "from vexpress_rt.backends.registry import provider_names\n"
        "assert provider_names() == ('auto', 'tensorrt', 'cuda', 'cpu')\n"
        "libraries = ('onnxruntime', 'tensorrt', 'tensorrt_rtx', 'polygraphy', 'cuda')\n"
        "sys.exit(' '.join(name for name in libraries if name in sys.modules) or None)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
