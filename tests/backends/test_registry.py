"""What runs a bundle's engines: the choice, by bundle and machine, and what a generator says of it. All on fakes."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.doubles.fake_cuda import NO_DRIVER, FakeCuda, installed
from tests.doubles.fake_tensorrt import FakeTensorRT
from tests.doubles.fakes import DETECTOR_SPEC, FakeBackend, FakeEngine, write_bundle
from tests.support.compiled import PORTABLE, add_plans
from tests.support.engines import CAPACITY
from tests.support.scenes import FAST, frames_of, photo, speech
from vexpress_rt.backends.registry import choose
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.bundle.manifest import read_manifest
from vexpress_rt.errors import BackendError, BackendMissingError, ConfigError
from vexpress_rt.native import device_kernels
from vexpress_rt.pipeline.generator import Generator


class Machine(FakeBackend):
    """Stands in for the engine modules of all providers, and records which of them engines are loaded with.

    cuda: the GPU.  can_use_gpu: whether ONNX Runtime is one with CUDA.  asked: (library, engine) of every load.
    executors: what engines on the GPU were to share.
    """

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self.cuda = cuda
        self.can_use_gpu = True
        self.asked: list[tuple[str, str]] = []
        self.executors: set[Any] = set()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("onnxruntime.provider.engine", "onnxruntime.provider.cuda_engine", "tensorrt.provider.engine"):
            loads = SimpleNamespace(
                load=partial(self.load_with, "cpu" if module.endswith("er.engine") else "cuda"),
                check_installed=self.check_installed,
                version=self.version,
            )
            monkeypatch.setattr(f"vexpress_rt.backends.{module}", loads)

    def check_installed(self) -> None:
        if not self.can_use_gpu:
            raise BackendMissingError("the ONNX Runtime that is installed runs on the CPU alone")

    def load_with(
        self, library: str, path: Path, spec: Any, *, threads: int | None = None, executor: Any = None,
        target: str | None = None, share_weights: bool = False,
    ) -> FakeEngine:  # fmt: skip
        library = target or library
        assert path.suffix == (".plan" if target else ".onnx")
        engine = super().load(path, spec, threads=threads)
        engine.away = library != "cpu"
        self.asked.append((library, engine.spec.name))
        if engine.away:
            self.executors.add(executor)
        return engine


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    yield from installed(monkeypatch, CAPACITY)


@pytest.fixture
def machine(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One with a GPU, TensorRT, and an ONNX Runtime with CUDA; without kernels, since its engines know no tensors."""
    monkeypatch.setitem(sys.modules, device_kernels.EXTENSION, None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(cuda))  # type: ignore[arg-type]
    fake = Machine(cuda)
    fake.install(monkeypatch)
    return fake


def without_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.cuda, "cudaGetDeviceCount", lambda: (NO_DRIVER, 0), raising=True)


def without_tensorrt(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # type: ignore[arg-type]


def without_cuda(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.can_use_gpu = False


@pytest.fixture(scope="module")
def compiled_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All engines have plans but the face detector."""
    return add_plans(write_bundle(tmp_path_factory.mktemp("compiled") / "bundle"))


@pytest.fixture
def compiled(compiled_bundle: Path) -> Bundle:
    return Bundle.open(compiled_bundle)


@pytest.fixture
def plain(fake_bundle: Path) -> Bundle:
    return Bundle.open(fake_bundle)


@pytest.fixture
def plans_alone(tmp_path: Path) -> Bundle:
    """Built with --no-onnx."""
    return Bundle.open(add_plans(write_bundle(tmp_path / "alone"), onnx=False))


# The choice


def test_auto_takes_tensorrt_for_a_compiled_bundle_where_there_is_a_gpu(machine: Machine, compiled: Bundle) -> None:
    choice = choose("auto", compiled)
    assert (choice.name, choice.reason) == ("tensorrt", "the bundle is compiled for it and there is a GPU")


def test_auto_takes_cuda_for_a_bundle_without_plans(machine: Machine, plain: Bundle) -> None:
    choice = choose("auto", plain)
    assert choice.name == "cuda"
    assert "not tensorrt, since the bundle is not compiled for TensorRT (its target is onnxruntime)" in choice.reason


@pytest.mark.parametrize(
    ("lacks", "taken", "why"),
    [
        ([without_tensorrt], "cuda", "not tensorrt, since TensorRT cannot be imported"),
        ([without_tensorrt, without_cuda], "cpu", "not cuda, since the ONNX Runtime"),
        ([without_gpu], "cpu", "not tensorrt or cuda, since no NVIDIA GPU can be used"),
        ([without_cuda], "tensorrt", "compiled for it"),
    ],
)
def test_auto_takes_what_is_left_and_says_why(
    machine: Machine, compiled: Bundle, monkeypatch: pytest.MonkeyPatch, lacks: list[Any], taken: str, why: str
) -> None:
    for remove in lacks:
        remove(machine, monkeypatch)
    choice = choose("auto", compiled)
    assert choice.name == taken
    assert why in choice.reason


def test_plans_that_are_not_used_are_worth_a_warning(
    machine: Machine, compiled: Bundle, plain: Bundle, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    without_gpu(machine, monkeypatch)
    choose("auto", plain)
    assert not caplog.records
    choose("auto", compiled)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("provider cpu: it is always there; not tensorrt or cuda")


@pytest.mark.parametrize("name", ["tensorrt", "cuda", "cpu"])
def test_what_is_asked_for_is_taken(machine: Machine, compiled: Bundle, name: str) -> None:
    choice = choose(name, compiled)
    assert (choice.name, choice.reason) == (name, "asked for")


@pytest.mark.parametrize(
    ("name", "lack", "error", "message"),
    [
        ("tensorrt", without_tensorrt, BackendMissingError, r"install it with `pip install 'vexpress-rt\[tensorrt\]'`"),
        ("tensorrt", without_gpu, BackendError, "no NVIDIA GPU can be used .*: look at what `nvidia-smi` says"),
        ("cuda", without_gpu, BackendError, "no NVIDIA GPU can be used"),
        ("cuda", without_cuda, BackendMissingError, "runs on the CPU alone"),
    ],
)
def test_what_is_asked_for_and_cannot_be_had_is_refused(
    machine: Machine, compiled: Bundle, monkeypatch: pytest.MonkeyPatch, name: str, lack: Any,
    error: type[Exception], message: str,
) -> None:  # fmt: skip
    lack(machine, monkeypatch)
    with pytest.raises(error, match=message):
        choose(name, compiled)


def test_tensorrt_is_refused_for_a_bundle_of_another_target(machine: Machine, plain: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"not compiled for TensorRT .*export\.build .*--target tensorrt"):
        choose("tensorrt", plain)


@pytest.mark.parametrize("choices", [{"name": "abacus"}, {"name": "cpu", "rebuild": "always"}])
def test_an_unknown_choice_is_refused(plain: Bundle, choices: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"(provider is 'abacus'; expected one of auto, t|rebuild is 'always'; expe)"):
        choose(bundle=plain, **choices)


@pytest.mark.parametrize("provider", ["cuda", "cpu"])
def test_onnx_runtime_is_refused_for_a_bundle_without_graphs(
    machine: Machine, plans_alone: Bundle, provider: str
) -> None:
    with pytest.raises(ConfigError, match="was built with --no-onnx and holds nothing that ONNX Runtime could run"):
        choose(provider, plans_alone)


@pytest.mark.parametrize(("provider", "onnx"), [("cuda", True), ("cpu", True), ("cpu", False)])
def test_onnx_runtime_is_refused_for_bfloat16(machine: Machine, tmp_path: Path, provider: str, onnx: bool) -> None:
    folder = write_bundle(tmp_path / "narrow")
    manifest = dataclasses.replace(read_manifest(folder), precision="bf16", target="tensorrt", onnx=onnx)
    bundle = Bundle(folder, manifest)
    with pytest.raises(ConfigError, match="is in bfloat16, which ONNX Runtime does not compute in"):
        choose(provider, bundle)


def test_nothing_runs_a_bundle_without_graphs_where_its_plans_do_not(
    machine: Machine, plans_alone: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose("auto", plans_alone).name == "tensorrt"
    without_gpu(machine, monkeypatch)
    with pytest.raises(ConfigError, match=r"nothing on this machine .* not tensorrt, since no NVIDIA GPU .*; not cuda"):
        choose("auto", plans_alone)


# Loading and running


def videos(folder: Path, **options: Any) -> np.ndarray:
    with Generator(folder, **options) as generator:
        return frames_of(generator.generate(photo(), speech(), config=FAST))


@pytest.mark.parametrize(("provider", "library"), [("tensorrt", "tensorrt"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_engines_are_loaded_with_the_library_that_was_chosen(
    machine: Machine, compiled_bundle: Path, provider: str, library: str
) -> None:
    videos(compiled_bundle, provider=provider)
    assert {asked for asked, name in machine.asked if name != FACE_DETECTOR} == {library}


def test_a_detector_without_a_plan_runs_on_the_cpu_beside_tensorrt(machine: Machine, compiled_bundle: Path) -> None:
    videos(compiled_bundle, provider="tensorrt")
    assert ("cpu", DETECTOR_SPEC.name) in machine.asked


def test_a_detector_with_a_plan_runs_with_tensorrt(machine: Machine, tmp_path: Path) -> None:
    videos(add_plans(write_bundle(tmp_path / "whole"), ()))
    assert {library for library, _ in machine.asked} == {"tensorrt"}


def test_the_target_says_which_tensorrt(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = []
    load = tensorrt_library.load
    monkeypatch.setattr(tensorrt_library, "load", lambda target: wanted.append(target) or load("tensorrt"))
    videos(add_plans(write_bundle(tmp_path / "rtx"), library="tensorrt-rtx", **PORTABLE))
    assert wanted == ["tensorrt-rtx"]
    assert ("tensorrt-rtx", "denoiser") in machine.asked


@pytest.mark.parametrize(("provider", "shared"), [("tensorrt", 1), ("cuda", 1), ("cpu", 0)])
def test_engines_on_a_gpu_share_one_executor(
    machine: Machine, compiled_bundle: Path, provider: str, shared: int
) -> None:
    videos(compiled_bundle, provider=provider)
    assert len(machine.executors - {None}) == len(machine.executors) == shared


def test_frames_do_not_depend_on_what_was_chosen(machine: Machine, compiled_bundle: Path) -> None:
    expected = videos(compiled_bundle, provider="cpu")
    for provider in ("cuda", "tensorrt"):
        np.testing.assert_array_equal(videos(compiled_bundle, provider=provider), expected)


def test_closing_frees_engines_and_streams(machine: Machine, compiled_bundle: Path) -> None:
    generator = Generator(compiled_bundle)
    generator.prepare(photo())
    assert machine.cuda.left()
    generator.close()
    generator.close()
    assert all(engine.closed for engine in machine.engines.values())
    assert machine.cuda.left() == []


def test_no_memory_of_the_gpu_is_taken_before_an_engine_is_needed(machine: Machine, compiled_bundle: Path) -> None:
    with Generator(compiled_bundle):
        assert machine.cuda.left() == []


# In words


def test_a_generator_describes_itself(machine: Machine, compiled_bundle: Path) -> None:
    with Generator(compiled_bundle) as generator:
        lines = generator.describe().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "bundle", "built", "size", "precision", "provider", "device", "latents", "versions",
    ]  # fmt: skip
    text = "\n".join(lines)
    assert str(compiled_bundle) in text
    assert "for tensorrt, plans for Fake GPU (9.0), TensorRT 11.4.0" in text
    assert "64 x 64 pixels (height x width), windows of 8 frames" in text
    assert "tensorrt (the bundle is compiled for it and there is a GPU)" in text
    assert all(told in text for told in ("of 1.0 MiB of memory free", "TensorRT 11.4.0"))


def test_on_the_cpu_a_generator_names_threads_and_onnx_runtime(machine: Machine, compiled_bundle: Path) -> None:
    with Generator(compiled_bundle, provider="cpu", threads=3) as generator:
        assert all(told in generator.describe() for told in ("cpu (asked for)", "3 threads", "ONNX Runtime 0.0"))
