"""Engines of a bundle as they are loaded, shared, described and closed, on stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.fake_providers import FakeProviders
from tests.doubles.fakes import DETECTOR_SPEC, write_bundle
from tests.support.compiled import PORTABLE, add_plans
from tests.support.scenes import FAST, frames_of, photo, speech
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.pipeline.generator import Generator


def videos(folder: Path, **options: Any) -> np.ndarray:
    with Generator(folder, **options) as generator:
        return frames_of(generator.generate(photo(), speech(), config=FAST))


@pytest.mark.parametrize(("provider", "library"), [("tensorrt", "tensorrt"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_engines_are_loaded_with_the_library_that_was_chosen(
    machine: FakeProviders, compiled_bundle: Path, provider: str, library: str
) -> None:
    videos(compiled_bundle, provider=provider)
    assert {used for used, name in machine.loaded_with if name != FACE_DETECTOR} == {library}


def test_a_detector_without_a_plan_runs_on_the_cpu_beside_tensorrt(
    machine: FakeProviders, compiled_bundle: Path
) -> None:
    videos(compiled_bundle, provider="tensorrt")
    assert ("cpu", DETECTOR_SPEC.name) in machine.loaded_with


def test_a_detector_with_a_plan_runs_with_tensorrt(machine: FakeProviders, tmp_path: Path) -> None:
    videos(add_plans(write_bundle(tmp_path / "whole"), ()))
    assert {library for library, _ in machine.loaded_with} == {"tensorrt"}


def test_the_target_says_which_tensorrt(
    machine: FakeProviders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = []
    load = tensorrt_library.load
    monkeypatch.setattr(tensorrt_library, "load", lambda target: wanted.append(target) or load("tensorrt"))
    videos(add_plans(write_bundle(tmp_path / "rtx"), library="tensorrt-rtx", **PORTABLE))
    assert wanted == ["tensorrt-rtx"]
    assert ("tensorrt-rtx", "denoiser") in machine.loaded_with


@pytest.mark.parametrize(("provider", "shared"), [("tensorrt", 1), ("cuda", 1), ("cpu", 0)])
def test_engines_on_a_gpu_share_one_executor(
    machine: FakeProviders, compiled_bundle: Path, provider: str, shared: int
) -> None:
    videos(compiled_bundle, provider=provider)
    assert len(machine.executors - {None}) == len(machine.executors) == shared


def test_frames_do_not_depend_on_what_was_chosen(machine: FakeProviders, compiled_bundle: Path) -> None:
    expected = videos(compiled_bundle, provider="cpu")
    for provider in ("cuda", "tensorrt"):
        np.testing.assert_array_equal(videos(compiled_bundle, provider=provider), expected)


def test_closing_frees_engines_and_streams(machine: FakeProviders, compiled_bundle: Path) -> None:
    generator = Generator(compiled_bundle)
    generator.prepare(photo())
    assert machine.cuda.left()
    generator.close()
    generator.close()
    assert all(engine.closed for engine in machine.engines.values())
    assert machine.cuda.left() == []


def test_no_memory_of_the_gpu_is_taken_before_an_engine_is_needed(
    machine: FakeProviders, compiled_bundle: Path
) -> None:
    with Generator(compiled_bundle):
        assert machine.cuda.left() == []


# Descriptions


def test_a_generator_describes_itself(machine: FakeProviders, compiled_bundle: Path) -> None:
    with Generator(compiled_bundle) as generator:
        lines = generator.describe().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "bundle", "built", "size", "guiders", "precision", "provider", "device", "latents", "versions",
    ]  # fmt: skip
    text = "\n".join(lines)
    assert str(compiled_bundle) in text
    assert "for tensorrt, plans for Fake GPU (9.0), TensorRT 11.4.0" in text
    assert "64 x 64 pixels (height x width), windows of 8 frames" in text
    assert "tensorrt (the bundle is compiled for it and there is a GPU)" in text
    assert all(words in text for words in ("of 1.0 MiB of memory free", "TensorRT 11.4.0"))


def test_on_the_cpu_a_generator_names_threads_and_onnx_runtime(machine: FakeProviders, compiled_bundle: Path) -> None:
    with Generator(compiled_bundle, provider="cpu", threads=3) as generator:
        assert all(words in generator.describe() for words in ("cpu (requested)", "3 threads", "ONNX Runtime 0.0"))
