"""ONNX Runtime on CUDA, bound to our own device memory; without a GPU on fakes, with one for real."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as real
import pytest

from tests.doubles import fake_onnxruntime
from tests.doubles.fake_cuda import FakeCuda, installed
from tests.doubles.fake_onnxruntime import FakeOnnxRuntime
from tests.support.engines import CAPACITY, MATRIX
from tests.support.onnx_graphs import FLOAT, HALF, node, save
from vexpress_rt.backends.base import DeviceTensor, Engine
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.onnxruntime.cuda_engine import load
from vexpress_rt.backends.registry import find_provider
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec
from vexpress_rt.errors import BackendError, BackendMissingError, BundleDamagedError, ConfigError

Load = Callable[..., Any]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    yield from installed(monkeypatch, CAPACITY)


@pytest.fixture
def library(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeOnnxRuntime:
    fake = FakeOnnxRuntime(cuda)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)  # type: ignore[arg-type]
    return fake


@pytest.fixture
def load_one(library: FakeOnnxRuntime, tmp_path: Path) -> Iterator[Load]:
    """Loads an engine that `make` writes, on CUDA; closes it in the end."""
    loaded: list[Any] = []

    def load_graph(make: Callable[[Path], EngineSpec], *, checked: bool = True, **options: Any) -> Any:
        path = tmp_path / f"{make.__name__}.onnx"
        spec = make(path)
        loaded.append(load(path, spec if checked else None, **options))
        return loaded[-1]

    yield load_graph
    for engine in loaded:
        engine.close()


def doubler(path: Path) -> EngineSpec:
    return save(path, [node("Add", "x x", "y")], [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])])


def adder(path: Path) -> EngineSpec:
    """sum = a + b, difference = a - b."""
    ends = ([("a", FLOAT, [2, 3]), ("b", FLOAT, [2, 3])], [("sum", FLOAT, [2, 3]), ("difference", FLOAT, [2, 3])])
    return save(path, [node("Add", "a b", "sum"), node("Sub", "a b", "difference")], *ends)


def splitter(path: Path) -> EngineSpec:
    """Of samples (1, N) their sum, of a fixed size, and the negative ones, of an open one; in this order."""
    nodes = [node("Neg", "samples", "negative"), node("ReduceSum", "samples", "total", keepdims=1)]
    return save(path, nodes, [("samples", FLOAT, [1, "N"])], [("total", FLOAT, [1, 1]), ("negative", FLOAT, [1, "N"])])


def test_an_engine_gives_its_outputs_by_name(load_one: Load) -> None:
    engine: Engine = load_one(adder)
    for scale in range(1, 5):
        outputs = engine.run({"b": MATRIX, "a": scale * MATRIX})
        assert list(outputs) == ["sum", "difference"]
        np.testing.assert_array_equal(outputs["sum"], (scale + 1) * MATRIX)
        np.testing.assert_array_equal(outputs["difference"], (scale - 1) * MATRIX)


def test_results_of_earlier_calls_stay_as_they_were(load_one: Load) -> None:
    engine = load_one(doubler)
    results = [engine.run({"x": MATRIX + np.float32(call)})["y"] for call in range(3)]
    for call, result in enumerate(results):
        np.testing.assert_array_equal(result, 2 * (MATRIX + call))


def test_tensors_go_from_engine_to_engine_without_a_copy_over_the_host(load_one: Load, cuda: FakeCuda) -> None:
    with Executor() as executor:
        first, second = load_one(doubler, executor=executor), load_one(doubler, executor=executor)
        tensor = first.run({"x": MATRIX}, keep_on_device=True)["y"]
        assert isinstance(tensor, DeviceTensor)
        np.testing.assert_array_equal(second.run({"x": tensor})["y"], 4 * MATRIX)
        assert (cuda.copies["HostToDevice"], cuda.copies["DeviceToHost"]) == (1, 1)
        first.close()
        second.close()


def test_calls_that_leave_their_outputs_do_not_wait(load_one: Load, cuda: FakeCuda) -> None:
    engine = load_one(doubler)
    tensors = [engine.run({"x": MATRIX + np.float32(value)}, keep_on_device=True)["y"] for value in range(2)]
    assert cuda.copies["DeviceToDevice"] == 0
    for value, tensor in enumerate(tensors):
        np.testing.assert_array_equal(tensor.numpy(), 2 * (MATRIX + value))


@pytest.mark.parametrize("keep_on_device", [False, True])
def test_outputs_of_open_size_come_as_arrays(load_one: Load, keep_on_device: bool) -> None:
    engine = load_one(splitter)
    for count in (3, 5, 2, 2):
        samples = np.arange(count, dtype=np.float32)[None]
        outputs = engine.run({"samples": samples}, keep_on_device=keep_on_device)
        assert list(outputs) == ["total", "negative"]
        np.testing.assert_array_equal(outputs["negative"], -samples)
        total = outputs["total"].numpy() if keep_on_device else outputs["total"]
        np.testing.assert_array_equal(total, [[samples.sum()]])


def test_a_released_graph_that_declares_other_sizes_than_it_keeps_to_runs(load_one: Load) -> None:
    def detector(path: Path) -> EngineSpec:
        return save(path, [node("Relu", "x", "y")], [("x", FLOAT, [1, "h", "w"])], [("y", FLOAT, [1, 640, 640])])

    (result,) = load_one(detector, checked=False).run_positional(MATRIX[None])
    np.testing.assert_array_equal(result, MATRIX[None])


def test_it_computes_in_our_stream_and_in_full_float32(load_one: Load, library: FakeOnnxRuntime) -> None:
    with Executor() as executor:
        engine = load_one(doubler, executor=executor)
        (options,) = library.sessions
        assert options["user_compute_stream"] == str(executor.compute.handle)
        assert options["use_tf32"] == "0"
        engine.close()


def test_it_prints_nothing(load_one: Load, capfd: pytest.CaptureFixture[str]) -> None:
    load_one(doubler).run({"x": MATRIX})
    assert capfd.readouterr() == ("", "")


def test_every_mismatch_between_file_and_specification_is_named(library: FakeOnnxRuntime, tmp_path: Path) -> None:
    doubler(tmp_path / "e.onnx")
    spec = EngineSpec("e", (TensorSpec("z", ("2",), (2,), "float16"),), ())
    with pytest.raises(BundleDamagedError) as caught:
        load(tmp_path / "e.onnx", spec)
    for part in ("lacks the input z: float16", "unknown input x", "unknown output y"):
        assert part in str(caught.value)


def test_a_tensor_of_another_dtype_is_named(load_one: Load) -> None:
    def halver(path: Path) -> EngineSpec:
        return save(path, [node("Neg", "x", "y")], [("x", HALF, [2, 3])], [("y", HALF, [2, 3])])

    tensor = load_one(doubler).run({"x": MATRIX}, keep_on_device=True)["y"]
    with pytest.raises(BackendError, match=r"input x: float32 \(2, 3\); expected x: float16"):
        load_one(halver).run({"x": tensor})


def test_too_little_memory_shows_when_an_engine_is_loaded(
    load_one: Load, library: FakeOnnxRuntime, cuda: FakeCuda
) -> None:
    library.weights = 2 * CAPACITY
    with pytest.raises(BackendError, match=r"engine doubler cannot be loaded .*memory ran out .*fewer --frames"):
        load_one(doubler)
    library.weights = 0
    with (
        runtime.allocate(CAPACITY - 40),
        pytest.raises(BackendError, match=r"[xy] of engine doubler: .*requested 24 bytes"),
    ):
        load_one(doubler)
    assert cuda.machine.used == 0


def test_memory_that_runs_out_inside_a_run_is_told_and_the_next_run_works(
    load_one: Load, library: FakeOnnxRuntime
) -> None:
    engine = load_one(doubler)
    library.failures.append("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 99")
    with pytest.raises(BackendError, match=r"engine doubler failed: the GPU's memory ran out .* are free"):
        engine.run({"x": MATRIX})
    np.testing.assert_array_equal(engine.run({"x": MATRIX})["y"], 2 * MATRIX)


def test_what_the_library_complains_about_carries_the_engines_name(load_one: Load, library: FakeOnnxRuntime) -> None:
    engine = load_one(doubler)
    library.failures.append("CUBLAS failure 13")
    with pytest.raises(BackendError, match="engine doubler failed: CUBLAS failure 13"):
        engine.run({"x": MATRIX})


def test_a_closed_engine_says_so_and_everything_is_freed(load_one: Load, cuda: FakeCuda) -> None:
    engine = load_one(doubler)
    tensor = engine.run({"x": MATRIX}, keep_on_device=True)["y"]
    engine.close()
    engine.close()
    with pytest.raises(BackendError, match="engine doubler was closed"):
        engine.run({"x": MATRIX})
    np.testing.assert_array_equal(tensor.numpy(), 2 * MATRIX)
    tensor.close()
    assert cuda.machine.used == 0


def test_an_onnx_runtime_without_cuda_says_what_to_install(library: FakeOnnxRuntime, tmp_path: Path) -> None:
    library.available = ["CPUExecutionProvider"]
    with pytest.raises(
        BackendMissingError, match=r"runs on the CPU alone: .*pip install 'onnxruntime-gpu\[cuda,cudnn\]'"
    ):
        load(tmp_path / "e.onnx", None)


def test_no_onnx_runtime_at_all_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'onnxruntime-gpu\[cuda,cudnn\]'"):
        load(tmp_path / "e.onnx", None)


def test_cuda_libraries_that_are_not_found_are_told(load_one: Load, library: FakeOnnxRuntime) -> None:
    library.usable = False
    with pytest.raises(BackendError, match=r"was to run on CUDA and got CPUExecutionProvider: .*find CUDA or cuDNN"):
        load_one(doubler)


def test_without_a_gpu_the_error_says_so(library: FakeOnnxRuntime, cuda: FakeCuda, tmp_path: Path) -> None:
    cuda.gpus = 0
    with pytest.raises(BackendError, match="no NVIDIA GPU can be used"):
        load(tmp_path / "e.onnx", None)


def test_unknown_providers_are_refused() -> None:
    with pytest.raises(ConfigError, match="'rocm'"):
        find_provider("rocm")


@pytest.mark.parametrize("method", ["bind_input", "bind_output"])
def test_fake_binding_takes_what_the_real_one_takes(method: str) -> None:
    ours, theirs = getattr(fake_onnxruntime.Binding, method), getattr(real.IOBinding, method)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


@pytest.mark.gpu
def test_a_gpu_computes_and_keeps_tensors(tmp_path: Path) -> None:
    with Executor() as executor:
        doubles = load(tmp_path / "d.onnx", doubler(tmp_path / "d.onnx"), executor=executor)
        splits = load(tmp_path / "s.onnx", splitter(tmp_path / "s.onnx"), executor=executor)
        with doubles, splits:
            tensor = MATRIX
            for _ in range(3):
                tensor = doubles.run({"x": tensor}, keep_on_device=True)["y"]
            np.testing.assert_array_equal(tensor.numpy(), 8 * MATRIX)
            for count in (3, 5):
                outputs = splits.run({"samples": np.ones((1, count), np.float32)})
                assert outputs["negative"].shape == (1, count)
                assert outputs["total"] == [[count]]
