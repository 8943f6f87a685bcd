"""The default target of a build: the best one that the machine can build. With fakes of each machine."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export.build import __main__ as build
from export.build.options import BuildOptions
from export.build.targets import best_target
from tests.doubles.fake_cuda import NO_DRIVER, FakeCuda, installed
from tests.doubles.fake_tensorrt import FakeTensorRT
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.bundle.target import TARGETS
from vexpress_rt.errors import ConfigError

H100, RTX_4090, RTX_5090, A100 = (
    ("NVIDIA H100", (9, 0)), ("NVIDIA GeForce RTX 4090", (8, 9)), ("NVIDIA GeForce RTX 5090", (12, 0)),
    ("NVIDIA A100", (8, 0)),
)  # fmt: skip
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


class Machine:
    """A machine with or without a GPU, and with the libraries of some targets; at first it has neither."""

    def __init__(self, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
        self._cuda, self._patch = cuda, monkeypatch
        self.has(None)

    def has(self, gpu: tuple[str, tuple[int, int]] | None, *targets: str, polygraphy: bool = True) -> None:
        self._cuda.gpus = 0 if gpu is None else 1
        if gpu is not None:
            self._patch.setattr(runtime, "name_and_capability", lambda: gpu)
        for target, module in MODULES.items():
            library: Any = FakeTensorRT(self._cuda) if target in targets else None
            if library is not None and target == "tensorrt-rtx":
                library.__version__ = "1.7.1"
            self._patch.setitem(sys.modules, module, library)
        if not polygraphy:
            self._patch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    yield from installed(monkeypatch, 1 << 20)


@pytest.fixture
def machine(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(cuda, monkeypatch)


BOTH = ("tensorrt", "tensorrt-rtx")


@pytest.mark.parametrize(
    ("gpu", "libraries", "target", "why"),
    [
        (H100, ("tensorrt",), "tensorrt", "TensorRT 11.4.0 and NVIDIA H100 (9.0) found"),
        (RTX_4090, BOTH, "tensorrt", "TensorRT 11.4.0 and NVIDIA GeForce RTX 4090 (8.9) found"),
        (RTX_4090, ("tensorrt-rtx",), "tensorrt-rtx", "TensorRT for RTX 1.7.1 and NVIDIA GeForce RTX 4090 (8.9) found"),
        (RTX_5090, ("tensorrt-rtx",), "tensorrt-rtx", "TensorRT for RTX 1.7.1 and NVIDIA GeForce RTX 5090 (12.0) foun"),
        (H100, ("tensorrt-rtx",), "onnxruntime", "NVIDIA H100 (9.0) found, but TensorRT cannot be imported"),
        (H100, ("tensorrt-rtx",), "onnxruntime", "; TensorRT for RTX 1.7.1 is not made for it"),
        (A100, ("tensorrt-rtx",), "onnxruntime", "TensorRT for RTX 1.7.1 is not made for it"),
        (RTX_4090, (), "onnxruntime", "install it with `pip install 'vexpress-rt[tensorrt]'`; TensorRT for RTX cannot"),
        (None, (), "onnxruntime", "no NVIDIA GPU can be used (there is none)"),
        (None, ("tensorrt",), "onnxruntime", "no NVIDIA GPU can be used"),
        (None, BOTH, "onnxruntime", "; --target tensorrt-rtx compiles for RTX GPUs elsewhere"),
    ],
)
def test_it_is_what_the_machine_can_build_and_then_runs_best(
    machine: Machine, gpu: Any, libraries: tuple[str, ...], target: str, why: str
) -> None:
    machine.has(gpu, *libraries)
    for precision in ("fp16", "fp32"):
        found, reason = best_target(precision)
        assert found == target
        assert why in reason


@pytest.mark.parametrize(
    ("gpu", "libraries", "target", "why"),
    [
        (H100, BOTH, "tensorrt", "TensorRT 11.4.0 and NVIDIA H100 (9.0) found"),
        (None, BOTH, "tensorrt-rtx", "TensorRT for RTX 1.7.1 builds bfloat16 for other machines; no NVIDIA GPU"),
        (H100, ("tensorrt-rtx",), "tensorrt-rtx", "builds bfloat16 for other machines; NVIDIA H100 (9.0) found, but"),
    ],
)
def test_bfloat16_is_built_by_whatever_can(
    machine: Machine, gpu: Any, libraries: tuple[str, ...], target: str, why: str
) -> None:
    machine.has(gpu, *libraries)
    found, reason = best_target("bf16")
    assert found == target
    assert why in reason
    BuildOptions(precision="bf16", target=found)


@pytest.mark.parametrize("gpu", [None, H100], ids=["no GPU", "a GPU"])
def test_bfloat16_is_refused_where_nothing_builds_it(machine: Machine, gpu: Any) -> None:
    machine.has(gpu)
    with pytest.raises(
        ConfigError, match=r"bf16, which TensorRT alone computes in, and no library here .*install `vexpr"
    ):
        best_target("bf16")


def test_a_library_without_polygraphy_builds_nothing(machine: Machine) -> None:
    machine.has(RTX_4090, *BOTH, polygraphy=False)
    target, why = best_target("fp16")
    assert target == "onnxruntime"
    assert "Polygraphy, which builds TensorRT engines, is not installed" in why


def test_a_gpu_without_a_driver_is_as_good_as_none(machine: Machine, cuda: FakeCuda) -> None:
    machine.has(H100, "tensorrt")
    cuda.failures["cudaGetDeviceCount"] = [NO_DRIVER]
    target, why = best_target("fp16")
    assert (target, why.partition(" (")[0]) == ("onnxruntime", "no NVIDIA GPU can be used")
    assert "driver version is insufficient" in why


@pytest.mark.parametrize("target", [None, *TARGETS])
def test_the_command_tells_what_it_chose_and_names_the_folder_after_it(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    target: str | None,
) -> None:  # fmt: skip
    built: list[tuple[Path, str]] = []
    monkeypatch.setattr(build, "build", lambda weights, output, options, _: built.append((output, options.target)))
    machine.has(H100, "tensorrt")
    named = [] if target is None else ["--target", target]
    assert build.main(["--weights", str(tmp_path), *named]) == 0
    chosen = target or "tensorrt"
    assert built == [(Path(f"engines/512x512x24-fp32-{chosen}"), chosen)]
    output = "target tensorrt: TensorRT 11.4.0 and NVIDIA H100 (9.0) found\n" if target is None else ""
    assert capsys.readouterr().out == output


@pytest.mark.parametrize("given", [["--workspace", "4"], ["--hardware-compatible"], ["--timing-cache", "here"]])
def test_options_of_the_compiler_are_not_dropped_for_onnx_runtime(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main(["--weights", str(tmp_path), "--target", "onnxruntime", *given]) == 1
    assert "error: options of TensorRT are given with the target onnxruntime" in capsys.readouterr().err
