"""Tensors that stay on the GPU: their way from engine to engine, their lifetimes, and the copies of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.doubles.fake_cuda import FakeCuda
from tests.doubles.fake_tensorrt import FakeTensorRT, Plan
from tests.support.engines import CAPACITY, MATRIX, adder, doubler, fake_tensorrt, pooler, spec_of
from vexpress_rt.backends.base import DeviceTensor
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.buffer_pool import BufferPool
from vexpress_rt.backends.cuda.executor import CudaTensor, Executor
from vexpress_rt.backends.onnxruntime.engine import load as load_onnx
from vexpress_rt.backends.tensorrt.engine import TensorRTEngine, load
from vexpress_rt.errors import BackendError

Load = Callable[..., TensorRTEngine]


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRT]:
    yield from fake_tensorrt(monkeypatch)


@pytest.fixture
def cuda(tensorrt: FakeTensorRT) -> FakeCuda:
    return tensorrt.cuda


@pytest.fixture
def executor(tensorrt: FakeTensorRT) -> Iterator[Executor]:
    with Executor() as made:
        yield made


@pytest.fixture
def load_plan(tensorrt: FakeTensorRT, executor: Executor, tmp_path: Path) -> Iterator[Load]:
    """Loads an engine that computes as a plan says, into the shared executor; closes it in the end."""
    loaded: list[TensorRTEngine] = []

    def load_one(plan: Plan, **options: Any) -> TensorRTEngine:
        path = tensorrt.write(tmp_path / f"{len(loaded)}.engine", plan)
        loaded.append(load(path, spec_of("engine", plan), **{"executor": executor, **options}))
        return loaded[-1]

    yield load_one
    for engine in loaded:
        engine.close()


def kept_on_gpu(engine: TensorRTEngine, value: float = 0) -> Any:
    """Return the doubler's result for MATRIX + value, kept on the GPU."""
    return engine.run({"x": MATRIX + np.float32(value)}, keep_on_device=True)["y"]


def test_outputs_stay_on_the_gpu_on_request(load_plan: Load) -> None:
    tensor = kept_on_gpu(load_plan(doubler()))
    assert isinstance(tensor, DeviceTensor)
    assert (tensor.shape, tensor.dtype) == ((2, 3), "float32")
    np.testing.assert_array_equal(tensor.numpy(), 2 * MATRIX)


def test_tensors_go_from_engine_to_engine_without_a_copy_over_the_host(load_plan: Load, cuda: FakeCuda) -> None:
    first, second, third = (load_plan(doubler()) for _ in range(3))
    for _ in range(3):
        before = Counter(cuda.copies)
        tensor = second.run({"x": kept_on_gpu(first)}, keep_on_device=True)["y"]
        result = third.run({"x": tensor})["y"]
        np.testing.assert_array_equal(result, 8 * MATRIX)
        moved = cuda.copies - before
        assert (moved["HostToDevice"], moved["DeviceToHost"]) == (1, 1)


def test_an_input_that_all_calls_share_is_copied_once(load_plan: Load, cuda: FakeCuda) -> None:
    engine, common = load_plan(adder()), kept_on_gpu(load_plan(doubler()))
    for call in range(5):
        result = engine.run({"a": MATRIX + np.float32(call), "b": common})["sum"]
        np.testing.assert_array_equal(result, 3 * MATRIX + call)
    assert cuda.copies["DeviceToDevice"] == 2  # out of the one engine, into the other
    assert cuda.copies["HostToDevice"] == 6


@given(choices=st.lists(st.sampled_from(["array", "first", "second", "third"]), min_size=1, max_size=8))
def test_a_replayed_graph_reads_its_inputs_of_any_kind_in_any_order(choices: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in fake_tensorrt(patch):
            run_in_order(module, choices)


def run_in_order(tensorrt: FakeTensorRT, choices: list[str]) -> None:
    """Run one engine on arrays and tensors in turn, and check each result."""
    path, plan = Path(__file__), doubler()  # any file will do: its content is the plan's name
    tensorrt.plans[path.read_bytes()] = plan
    with load(path, spec_of("engine", plan)) as engine:
        tensors = {name: kept_on_gpu(engine, value) for value, name in enumerate(["first", "second", "third"])}
        expected = {name: tensor.numpy() for name, tensor in tensors.items()}
        for index, choice in enumerate(choices):
            array = MATRIX - np.float32(index)
            result = engine.run({"x": tensors.get(choice, array)})["y"]
            np.testing.assert_array_equal(result, 2 * expected.get(choice, array))


def test_calls_that_leave_their_outputs_do_not_wait_for_each_other(load_plan: Load, cuda: FakeCuda) -> None:
    engine, plan_runs = load_plan(plan := doubler()), []
    tensors = []
    for value in range(3):
        tensors.append(kept_on_gpu(engine, value))
        plan_runs.append(plan.runs)
    assert plan_runs[0] == 0  # the host went on before anything ran
    for value, tensor in enumerate(tensors):
        np.testing.assert_array_equal(tensor.numpy(), 2 * (MATRIX + value))


def test_tensors_outlive_engine_and_executor(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    plan = doubler()
    with load(tensorrt.write(tmp_path / "e.engine", plan), spec_of("engine", plan)) as engine:
        tensor = kept_on_gpu(engine)
    np.testing.assert_array_equal(tensor.numpy(), 2 * MATRIX)
    tensor.close()
    assert tensorrt.cuda.machine.used == 0


def test_tensors_go_from_one_executor_to_another(load_plan: Load) -> None:
    with Executor() as other:
        second = load_plan(doubler(), executor=other)
        for value in range(3):
            result = second.run({"x": kept_on_gpu(load_plan(doubler()), value)})["y"]
            np.testing.assert_array_equal(result, 4 * (MATRIX + value))
        second.close()


def test_a_tensor_may_be_dropped_while_it_is_still_read(load_plan: Load) -> None:
    first, second = load_plan(doubler()), load_plan(doubler())
    for value in range(3):
        tensor = kept_on_gpu(first, value)
        result: Any = second.run({"x": tensor}, keep_on_device=True)["y"]
        tensor.close()
        np.testing.assert_array_equal(result.numpy(), 4 * (MATRIX + value))


def test_a_tensor_may_be_dropped_while_several_read_it(load_plan: Load) -> None:
    with Executor() as other, load_plan(doubler(), executor=other) as elsewhere:
        readers, tensor = (elsewhere, load_plan(doubler())), kept_on_gpu(load_plan(doubler()))
        results: list[Any] = [reader.run({"x": tensor}, keep_on_device=True)["y"] for reader in readers]
        tensor.close()
        for result in results:
            np.testing.assert_array_equal(result.numpy(), 4 * MATRIX)


def test_sizes_may_grow_while_earlier_calls_still_run(load_plan: Load) -> None:
    engine = load_plan(pooler())
    given = [np.arange(count, dtype=np.float32)[None] for count in (4, 400, 1000)]
    results: list[Any] = [engine.run({"samples": samples}, keep_on_device=True)["means"] for samples in given]
    for samples, result in zip(given, results, strict=True):
        np.testing.assert_array_equal(result.numpy(), samples.reshape(1, -1, 2).mean(axis=2))


def test_a_tensor_may_be_dropped_before_it_is_computed(load_plan: Load, cuda: FakeCuda) -> None:
    engine, ran = load_plan(plan := doubler()), []
    for value in range(3):
        kept_on_gpu(engine, value)
        ran.append(plan.runs)
    assert ran[0] == 0
    np.testing.assert_array_equal(kept_on_gpu(engine).numpy(), 2 * MATRIX)


def test_memory_is_back_after_many_calls(load_plan: Load, cuda: FakeCuda) -> None:
    first, second = load_plan(doubler()), load_plan(doubler())
    second.run({"x": kept_on_gpu(first)})
    used = cuda.machine.used
    for value in range(20):
        second.run({"x": kept_on_gpu(first, value)})
    assert cuda.machine.used == used


def test_a_closed_tensor_is_refused_and_closing_twice_is_allowed(load_plan: Load) -> None:
    engine = load_plan(doubler())
    tensor = kept_on_gpu(engine)
    tensor.close()
    tensor.close()
    with pytest.raises(BackendError, match=r"a tensor \(2, 3\) on the GPU was closed and is used again"):
        engine.run({"x": tensor})
    with pytest.raises(BackendError, match="was closed"):
        tensor.numpy()


def test_a_tensor_that_does_not_fit_is_named(load_plan: Load) -> None:
    half = kept_on_gpu(load_plan(doubler()))
    with pytest.raises(BackendError, match=r"input x: float32 \(2, 3\); expected x: float16 \(2, 3\)"):
        load_plan(doubler("HALF")).run({"x": half})


def test_an_engine_on_the_cpu_refuses_it_and_says_what_to_do(load_plan: Load, tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "test", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(tmp_path / "e.onnx"))
    tensor = kept_on_gpu(load_plan(doubler()))
    with load_onnx(tmp_path / "e.onnx", None) as engine:
        with pytest.raises(BackendError, match=r"engine e takes arrays and x is on the GPU: pass the array"):
            engine.run({"x": tensor})
        np.testing.assert_array_equal(engine.run({"x": tensor.numpy()}, keep_on_device=True)["y"], -2 * MATRIX)


def test_bfloat16_goes_from_engine_to_engine(load_plan: Load) -> None:
    source = load_plan(Plan(
        inputs={"x": ("FLOAT", (2, 3))}, outputs={"y": ("BF16", (2, 3))},
        compute=lambda arrays: {"y": (arrays["x"].view(np.uint32) >> 16).astype(np.uint16)},
    ))  # fmt: skip
    target = load_plan(Plan(
        inputs={"x": ("BF16", (2, 3))}, outputs={"y": ("FLOAT", (2, 3))},
        compute=lambda arrays: {"y": (arrays["x"].astype(np.uint32) << 16).view(np.float32)},
    ))  # fmt: skip
    tensor: Any = source.run({"x": MATRIX}, keep_on_device=True)["y"]
    assert tensor.dtype == "bfloat16"
    np.testing.assert_array_equal(target.run({"x": tensor})["y"], MATRIX)


def test_bfloat16_never_becomes_an_array(load_plan: Load) -> None:
    plan = Plan({"x": ("FLOAT", (2, 3))}, {"y": ("BF16", (2, 3))}, lambda x: {"y": np.zeros((2, 3), np.uint16)})
    engine = load_plan(plan)
    with pytest.raises(
        BackendError, match=r"returns y: bfloat16 \(2, 3\), which NumPy lacks: run it with keep_on_device=True"
    ):
        engine.run({"x": MATRIX})
    tensor: Any = engine.run({"x": MATRIX}, keep_on_device=True)["y"]
    with pytest.raises(BackendError, match=r"is bfloat16, which NumPy lacks"):
        tensor.numpy()


def test_a_tensor_comes_to_the_host_from_any_thread_while_the_engine_goes_on(load_plan: Load) -> None:
    from concurrent.futures import ThreadPoolExecutor

    engine = load_plan(doubler())
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(kept_on_gpu(engine, value).numpy) for value in range(10)]
        for value, result in enumerate(waiting):
            np.testing.assert_array_equal(result.result(), 2 * (MATRIX + value))


def test_no_room_to_copy_a_tensor_to_the_host_is_an_error(load_plan: Load, cuda: FakeCuda) -> None:
    tensor = kept_on_gpu(load_plan(doubler()))
    cuda.failures["cudaHostAlloc"] = [2]
    with pytest.raises(BackendError, match="24 bytes of pinned host memory"):
        tensor.numpy()
    np.testing.assert_array_equal(tensor.numpy(), 2 * MATRIX)


def test_a_copy_to_the_host_that_is_interrupted_is_done_before_its_memory_goes(
    load_plan: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor, copy_to_host = kept_on_gpu(load_plan(doubler())), runtime.copy_to_host

    def interrupted(*arguments: Any) -> None:
        copy_to_host(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runtime, "copy_to_host", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tensor.numpy()  # the fake raises a violation if pinned memory is freed too early
    np.testing.assert_array_equal(tensor.numpy(), 2 * MATRIX)


def test_serial_numbers_of_tensors_are_never_used_again(cuda: FakeCuda) -> None:
    with runtime.Stream() as stream, BufferPool() as pool:
        made = [CudaTensor((8,), "uint8", runtime.allocate(8), stream.record(), pool) for _ in range(3)]
        for tensor in made:
            tensor.close()
        assert len({tensor.serial for tensor in made}) == 3
        assert cuda.machine.used < CAPACITY
