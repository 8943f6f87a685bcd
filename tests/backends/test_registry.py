"""The choice of a provider by bundle and machine, on stand-ins."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.fake_cuda import NO_DRIVER
from tests.doubles.fake_providers import FakeProviders
from tests.doubles.fakes import write_bundle
from tests.support.bundles import edit
from tests.support.compiled import add_plans
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import PRECISIONS
from vexpress_rt.bundle.manifest import read_manifest
from vexpress_rt.errors import BackendError, BackendMissingError, ConfigError


def without_gpu(machine: FakeProviders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.cuda, "cudaGetDeviceCount", lambda: (NO_DRIVER, 0), raising=True)


def without_tensorrt(machine: FakeProviders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # type: ignore[arg-type]


def without_cuda(machine: FakeProviders, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.can_use_gpu = False


@pytest.fixture
def compiled(compiled_bundle: Path) -> Bundle:
    return Bundle.open(compiled_bundle)


@pytest.fixture
def plain(fake_bundle: Path) -> Bundle:
    return Bundle.open(fake_bundle)


@pytest.fixture
def plans_alone(tmp_path: Path) -> Bundle:
    """A bundle built with --no-onnx."""
    return Bundle.open(add_plans(write_bundle(tmp_path / "alone"), onnx=False))


def test_auto_takes_tensorrt_for_a_compiled_bundle_where_there_is_a_gpu(
    machine: FakeProviders, compiled: Bundle
) -> None:
    choice = choose("auto", compiled)
    assert (choice.name, choice.reason) == ("tensorrt", "the bundle is compiled for it and there is a GPU")


@pytest.mark.parametrize("has_gpu", [True, False])
def test_auto_runs_a_bundle_for_openvino_in_onnx_runtime_without_a_warning(
    machine: FakeProviders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    has_gpu: bool,
) -> None:  # fmt: skip
    folder = write_bundle(tmp_path / "bundle", engines=("vae_decoder",))
    edit(folder, lambda data: data.update(target="openvino"))
    if not has_gpu:
        without_gpu(machine, monkeypatch)
    caplog.set_level(logging.INFO, "vexpress_rt")
    assert choose("auto", Bundle.open(folder)).name == ("cuda" if has_gpu else "cpu")
    assert {record.levelno for record in caplog.records} == {logging.INFO}


def test_auto_takes_cuda_for_a_bundle_without_plans(machine: FakeProviders, plain: Bundle) -> None:
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
def test_auto_takes_the_next_provider_and_says_why(
    machine: FakeProviders, compiled: Bundle, monkeypatch: pytest.MonkeyPatch, lacks: list[Any], taken: str, why: str
) -> None:
    for remove in lacks:
        remove(machine, monkeypatch)
    choice = choose("auto", compiled)
    assert choice.name == taken
    assert why in choice.reason


def test_unused_plans_are_a_warning(
    machine: FakeProviders, compiled: Bundle, plain: Bundle, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    without_gpu(machine, monkeypatch)
    choose("auto", plain)
    assert not caplog.records
    choose("auto", compiled)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("provider cpu: it is always available; not tensorrt or cuda")


@pytest.mark.parametrize("name", ["tensorrt", "cuda", "cpu"])
def test_a_requested_provider_is_taken(machine: FakeProviders, compiled: Bundle, name: str) -> None:
    choice = choose(name, compiled)
    assert (choice.name, choice.reason) == (name, "requested")


@pytest.mark.parametrize(
    ("name", "lack", "error", "message"),
    [
        ("tensorrt", without_tensorrt, BackendMissingError, r"install it with `pip install 'vexpress-rt\[tensorrt\]'`"),
        ("tensorrt", without_gpu, BackendError, "no NVIDIA GPU can be used .*: see the output of `nvidia-smi`"),
        ("cuda", without_gpu, BackendError, "no NVIDIA GPU can be used"),
        ("cuda", without_cuda, BackendMissingError, "runs on the CPU alone"),
    ],
)
def test_a_requested_provider_that_cannot_run_is_refused(
    machine: FakeProviders, compiled: Bundle, monkeypatch: pytest.MonkeyPatch, name: str, lack: Any,
    error: type[Exception], message: str,
) -> None:  # fmt: skip
    lack(machine, monkeypatch)
    with pytest.raises(error, match=message):
        choose(name, compiled)


def test_tensorrt_is_refused_for_a_bundle_of_another_target(machine: FakeProviders, plain: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"not compiled for TensorRT .*export\.build .*--target tensorrt"):
        choose("tensorrt", plain)


@pytest.mark.parametrize("choices", [{"name": "abacus"}, {"name": "cpu", "rebuild": "always"}])
def test_an_unknown_choice_is_refused(plain: Bundle, choices: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"(provider is 'abacus'; expected one of auto, t|rebuild is 'always'; expe)"):
        choose(bundle=plain, **choices)


@pytest.mark.parametrize("provider", ["cuda", "cpu"])
def test_onnx_runtime_is_refused_for_a_bundle_without_graphs(
    machine: FakeProviders, plans_alone: Bundle, provider: str
) -> None:
    with pytest.raises(ConfigError, match="was built with --no-onnx and holds nothing that ONNX Runtime could run"):
        choose(provider, plans_alone)


@pytest.mark.parametrize(("provider", "onnx"), [("cuda", True), ("cpu", True), ("cpu", False)])
def test_onnx_runtime_is_refused_for_bfloat16(
    machine: FakeProviders, tmp_path: Path, provider: str, onnx: bool
) -> None:
    folder = write_bundle(tmp_path / "narrow")
    manifest = dataclasses.replace(read_manifest(folder), precision="bf16", target="tensorrt", onnx=onnx)
    bundle = Bundle(folder, manifest)
    with pytest.raises(ConfigError, match="is in bfloat16, which ONNX Runtime does not compute in"):
        choose(provider, bundle)


def test_nothing_runs_a_bundle_without_graphs_where_its_plans_do_not(
    machine: FakeProviders, plans_alone: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose("auto", plans_alone).name == "tensorrt"
    without_gpu(machine, monkeypatch)
    with pytest.raises(ConfigError, match=r"nothing on this machine .* not tensorrt, since no NVIDIA GPU .*; not cuda"):
        choose("auto", plans_alone)


# Devices and precisions


@pytest.mark.parametrize("name", ["tensorrt", "cuda", "cpu"])
def test_a_device_is_refused_by_a_provider_that_has_no_choice(
    machine: FakeProviders, compiled: Bundle, name: str
) -> None:
    with pytest.raises(ConfigError, match="device is GPU, which only provider='openvino' has: use it, or leave"):
        choose(name, compiled, device="GPU")


@pytest.mark.parametrize("name", ["auto", "cpu", "openvino"])
def test_an_unknown_device_is_refused_with_those_that_exist(machine: FakeProviders, plain: Bundle, name: str) -> None:
    with pytest.raises(ConfigError, match="device is 'cuda'; expected one of CPU, GPU, NPU with provider='openvino'"):
        choose(name, plain, device="cuda")


@pytest.mark.parametrize("name", ["auto", "cpu", "openvino"])
def test_an_unknown_precision_is_refused(machine: FakeProviders, plain: Bundle, name: str) -> None:
    with pytest.raises(ConfigError, match="precision is 'half'; expected one of fp32, fp16, bf16"):
        choose(name, plain, precision="half")


@pytest.mark.parametrize("name", ["tensorrt", "cuda", "cpu"])
def test_a_precision_other_than_the_bundles_is_refused(machine: FakeProviders, compiled: Bundle, name: str) -> None:
    own, *others = sorted(PRECISIONS, key=lambda precision: precision != compiled.manifest.precision)
    assert choose(name, compiled, precision=own).name == name
    for precision in others:
        with pytest.raises(
            ConfigError,
            match=f"precision is {precision}, and the bundle is in {own}, the only .* use provider='openvino', or lea",
        ):
            choose(name, compiled, precision=precision)
