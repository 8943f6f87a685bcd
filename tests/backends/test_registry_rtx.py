"""TensorRT for RTX is chosen for GPUs that it supports, and tried on others on request. With stand-ins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.fake_builder import FakeBuilder
from tests.doubles.fake_tensorrt import FakeTensorRT
from tests.doubles.fakes import write_bundle
from tests.support.compiled import PORTABLE, add_plans, installed_builder
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.utils.project_links import EXPORTER

VERSION = "1.7.1"


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBuilder]:
    """The stand-in that compiles on this machine, which has a data centre GPU (9.0) and TensorRT for RTX."""
    for fake in installed_builder(monkeypatch):
        library = FakeTensorRT(sys.modules["tensorrt"].cuda)
        library.__version__ = VERSION
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", library)  # type: ignore[arg-type]
        yield fake


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with plans that fit."""
    return Bundle.open(add_plans(write_bundle(tmp_path / "b"), library="tensorrt-rtx", version=VERSION, **PORTABLE))


@pytest.fixture
def outdated(tmp_path: Path) -> Bundle:
    """A bundle with plans of another version."""
    return Bundle.open(add_plans(write_bundle(tmp_path / "b"), library="tensorrt-rtx", version="1.5.0", **PORTABLE))


def test_auto_passes_over_it_on_another_gpu_and_says_why(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    choice = choose("auto", bundle)
    assert (choice.name, choice.loader.describe_plans()) == ("cpu", "")
    why = (
        "not tensorrt, since TensorRT for RTX 1.7.1 is not made for Fake GPU (9.0): build a bundle on this machine "
        f"with `python -m export.build --target tensorrt` {EXPORTER}, or try this one with provider='tensorrt'"
    )
    assert why in choice.reason
    assert why in caplog.text


@pytest.mark.parametrize("rebuild", ["auto", "never"])
def test_auto_compiles_nothing_for_another_gpu(outdated: Bundle, builder: FakeBuilder, rebuild: str) -> None:
    assert choose("auto", outdated, rebuild).name == "cpu"
    assert builder.built == []


def test_it_is_tried_on_any_gpu_on_request(bundle: Bundle) -> None:
    assert choose("tensorrt", bundle).loader.describe_plans()


def test_auto_takes_it_on_a_gpu_that_it_is_made_for(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vexpress_rt.backends.cuda.runtime.name_and_capability", lambda: ("NVIDIA GeForce RTX 4090", (8, 9))
    )
    assert choose("auto", bundle).name == "tensorrt"
