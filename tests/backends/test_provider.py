"""A new provider needs only a class of its own and an entry in the registry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.doubles.fakes import COMPUTE, DETECTOR_SPEC, FakeBackend, FakeEngine
from tests.support.scenes import FAST, frames_of, photo, speech
from vexpress_rt.__main__ import main
from vexpress_rt.backends import registry
from vexpress_rt.backends.base import Engine, SharedExecutor
from vexpress_rt.backends.provider import EngineLoader, Progress, Provider
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.errors import BackendMissingError, ConfigError
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.utils.cpus import ThreadLimit
from vexpress_rt.utils.project_links import EXPORTER


class AbacusProvider(Provider):
    """Computes engines in Python."""

    name = "abacus"
    advantage = "it needs no library"
    targets = ("onnxruntime",)
    precisions = ("fp32",)

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
        if bundle.manifest.precision not in self.precisions:
            raise ConfigError(f"an abacus does not compute in {bundle.manifest.precision}")
        return AbacusLoader(bundle)

    def check_installed(self, target: str) -> None:
        if target not in self.targets:
            raise BackendMissingError("an abacus runs no plans")

    def describe_library(self, target: str) -> str:
        return "Abacus 1.0"

    def describe_device(self, limit: ThreadLimit, device: str | None = None) -> str:
        return "ten fingers"


class Frame:
    """What engines on an abacus share."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class FramedAbacusProvider(AbacusProvider):
    """An abacus that is strung ahead of time, and whose engines share its frame."""

    def __init__(self) -> None:
        self.frame = Frame()

    def make_executor(self) -> Frame:
        return self.frame

    def compile(self, bundle: Bundle, progress: Progress) -> str:
        progress("string", 10, 10)
        return f"{len(bundle.specs)} rods"


class AbacusLoader(EngineLoader):
    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.executors: set[SharedExecutor | None] = set()

    def load(
        self,
        name: str,
        *,
        threads: int | None = None,
        executor: SharedExecutor | None = None,
        share_weights: bool = False,
    ) -> Engine:
        self.executors.add(executor)
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


def test_its_engines_share_what_it_makes_and_need_no_cuda(
    backend: FakeBackend, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, provider = video(fake_bundle, "cpu"), FramedAbacusProvider()
    monkeypatch.setattr(registry, "PROVIDERS", (provider,))
    with Generator(fake_bundle, provider="abacus") as generator:
        frames = frames_of(generator.generate(photo(), speech(), config=FAST))
        loader = generator._engines.selection.loader
        assert isinstance(loader, AbacusLoader)
        assert not provider.frame.closed
    np.testing.assert_array_equal(frames, expected)
    assert (loader.executors, provider.frame.closed) == ({provider.frame}, True)


def test_compile_asks_the_first_provider_of_the_bundles_target(
    abacus: AbacusProvider, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rods = len(Bundle.open(fake_bundle).specs)
    monkeypatch.setattr(registry, "PROVIDERS", (FramedAbacusProvider(), *registry.PROVIDERS))
    assert main(["compile", str(fake_bundle)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{fake_bundle} has plans for {rods} rods\n"
    assert "string: 100% 10/10" in captured.err


def test_compile_refuses_a_bundle_whose_provider_compiles_nothing(
    abacus: AbacusProvider, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for providers in (registry.PROVIDERS, (abacus,)):
        monkeypatch.setattr(registry, "PROVIDERS", providers)
        assert main(["compile", str(fake_bundle)]) == 1
        message = capsys.readouterr().err
        assert "not compiled for TensorRT (its target is onnxruntime): build it with `python -m export.build" in message
        assert f"--target tensorrt` (or tensorrt-rtx) {EXPORTER}, or use provider='auto'" in message


def test_auto_takes_the_first_provider_that_can_run_the_bundle(
    abacus: AbacusProvider, backend: FakeBackend, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(fake_bundle)
    assert registry.choose("auto", bundle).name == "cpu"
    monkeypatch.setattr(registry, "PROVIDERS", registry.PROVIDERS[::-1])
    chosen = registry.choose("auto", bundle)
    assert (chosen.provider, chosen.reason) == (abacus, "it needs no library")


def test_an_unknown_provider_is_refused_with_the_names_of_all(abacus: AbacusProvider, fake_bundle: Path) -> None:
    names = registry.provider_names()
    assert "abacus" in names
    with pytest.raises(ConfigError, match=f"provider is 'slide rule'; expected one of {', '.join(names)}"):
        registry.choose("slide rule", Bundle.open(fake_bundle))


def test_providers_are_known_without_their_libraries() -> None:
    code = (
        "import sys\n"
        "from vexpress_rt.backends.registry import provider_names\n"
        "assert provider_names()[0] == 'auto' and {'tensorrt', 'cuda', 'cpu'} <= {*provider_names()}\n"
        "libraries = ('onnxruntime', 'tensorrt', 'tensorrt_rtx', 'polygraphy', 'cuda')\n"
        "sys.exit(' '.join(name for name in libraries if name in sys.modules) or None)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
