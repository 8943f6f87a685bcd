"""The fake TensorRT itself: its interface equals the real one, and it notices broken rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorrt_rtx as real

from tests.doubles import fake_tensorrt as fakes
from tests.doubles.fake_machine import ViolationError
from tests.doubles.fake_tensorrt import Context, Engine, FakeTensorRT, ILogger, Plan, Severity
from tests.support.engines import adder, doubler, fake_tensorrt, pooler, spec_of
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.tensorrt.engine import load

MEMORY = 4096


class Logger(ILogger):
    def __init__(self) -> None:
        self.errors: list[str] = []

    def log(self, severity: Severity, message: str) -> None:
        assert severity == Severity.ERROR
        self.errors.append(message)


class Bench:
    """An engine and its context, used by hand, with memory and a stream."""

    def __init__(self, module: FakeTensorRT, path: Path, plan: Plan) -> None:
        self.logger = Logger()
        self.runtime = module.Runtime(self.logger)
        engine = self.runtime.deserialize_cuda_engine(module.write(path, plan).read_bytes())
        assert engine is not None
        self.engine: Engine = engine
        context = engine.create_execution_context(module.ExecutionContextAllocationStrategy.USER_MANAGED)
        assert context is not None
        self.context: Context = context
        self.stream = runtime.Stream()
        self.buffers = [runtime.allocate(MEMORY) for _ in range(5)]

    def bind(self, *left_out: str) -> None:
        for name, buffer in zip(self.engine.tensors, self.buffers, strict=False):
            if name not in left_out:
                assert self.context.set_tensor_address(name, buffer.pointer)

    def lend_memory(self, size: int = MEMORY) -> None:
        self.context.set_device_memory(self.buffers[-1].pointer, size)

    def enqueue(self) -> bool:
        return self.context.execute_async_v3(self.stream.handle)

    def close(self) -> None:
        self.stream.synchronize()
        del self.context
        del self.engine
        for one in (*self.buffers, self.stream):
            one.close()


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRT]:
    yield from fake_tensorrt(monkeypatch)


@pytest.fixture
def bench(tensorrt: FakeTensorRT, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tensorrt, tmp_path / "e.engine", adder())
    yield made
    made.close()


def test_a_context_runs_with_addresses_and_memory(bench: Bench) -> None:
    bench.bind()
    bench.lend_memory()
    assert bench.enqueue()
    assert bench.logger.errors == []


def test_an_address_that_was_not_set_is_reported(bench: Bench) -> None:
    bench.bind("b")
    bench.lend_memory()
    assert not bench.enqueue()
    assert bench.logger.errors == ["Address is not set for ['b']"]


def test_activation_memory_that_was_not_set_is_reported(bench: Bench) -> None:
    bench.bind()
    assert not bench.enqueue()
    assert bench.logger.errors == ["Device memory is not set since the last change, or too small"]


def test_memory_that_was_given_before_sizes_were_settled_again_is_reported(bench: Bench) -> None:
    bench.bind()
    bench.lend_memory()
    assert bench.enqueue()
    assert bench.context.update_device_memory_size_for_shapes() == 1024
    assert not bench.enqueue()
    bench.lend_memory()
    assert bench.enqueue()


def test_too_little_activation_memory_is_reported(bench: Bench) -> None:
    bench.lend_memory(512)
    assert bench.logger.errors == ["Device memory of 512 bytes is too small, 1024 are needed"]


def test_capture_without_a_run_before_is_reported_and_spoils_the_capture(bench: Bench) -> None:
    bench.bind()
    bench.lend_memory()
    bench.stream.begin_capture()
    assert not bench.enqueue()
    with pytest.raises(runtime.BackendError, match="cudaStreamEndCapture"):
        bench.stream.end_capture()


def test_a_new_address_after_a_run_has_to_be_run_once_before_a_capture(bench: Bench) -> None:
    bench.bind()
    bench.lend_memory()
    assert bench.enqueue()
    bench.bind()
    bench.stream.begin_capture()
    assert not bench.enqueue()
    with pytest.raises(runtime.BackendError):
        bench.stream.end_capture()


def test_memory_too_small_for_a_tensor_is_a_violation(bench: Bench) -> None:
    with runtime.allocate(8) as small:
        bench.bind()
        bench.lend_memory()
        assert bench.context.set_tensor_address("b", small.pointer)
        with pytest.raises(ViolationError, match=r"24 bytes at .* are not in device memory"):
            bench.enqueue()


def test_a_graph_keeps_the_addresses_that_it_was_captured_with(bench: Bench) -> None:
    bench.bind()
    bench.lend_memory()
    assert bench.enqueue()
    bench.stream.begin_capture()
    assert bench.enqueue()
    with bench.stream.end_capture() as graph:
        bench.stream.synchronize()
        bench.buffers[1].close()
        bench.buffers[1] = runtime.allocate(MEMORY)
        bench.bind()
        with pytest.raises(ViolationError, match="not in any memory that is allocated"):
            graph.launch(bench.stream)
        bench.stream.synchronize()


def test_destroying_a_context_while_it_runs_is_a_violation(bench: Bench) -> None:
    bench.bind()
    bench.lend_memory()
    assert bench.enqueue()
    with pytest.raises(ViolationError, match="a context was destroyed while its work may run"):
        bench.context.__del__()


def test_a_context_without_its_engine_is_a_violation(bench: Bench) -> None:
    bench.bind()
    before, bench.context.parent = bench.context.parent, lambda: None
    with pytest.raises(ViolationError, match="Context is used after the object that it was made from was destroyed"):
        bench.enqueue()
    bench.context.parent = before


def test_open_sizes_have_to_be_set_within_their_range(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    bench = Bench(tensorrt, tmp_path / "e.engine", pooler())
    assert bench.context.update_device_memory_size_for_shapes() == 0
    assert not bench.context.set_input_shape("samples", (1, 1))
    assert bench.context.get_tensor_shape("means") == (1, -1)
    assert bench.context.set_input_shape("samples", (1, 6))
    assert bench.context.get_tensor_shape("means") == (1, 3)
    assert bench.context.update_device_memory_size_for_shapes() == 24
    bench.close()


def test_engines_that_shared_a_block_at_once_would_be_noticed(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    plan = doubler()
    path = tensorrt.write(tmp_path / "e.engine", plan)
    with load(path, spec_of("e", plan)) as engine, runtime.Stream() as first, runtime.Stream() as second:
        assert engine._plan.context.execute_async_v3(first.handle)
        with pytest.raises(ViolationError, match="engine writes what another stream may still use"):
            engine._plan.context.execute_async_v3(second.handle)
        for stream in (first, second):
            stream.synchronize()


@pytest.mark.parametrize(
    ("fake", "theirs"),
    [
        (FakeTensorRT, real),
        (fakes.Runtime, real.Runtime),
        (fakes.Engine, real.ICudaEngine),
        (fakes.Context, real.IExecutionContext),
    ],
)
def test_fake_has_nothing_that_tensorrt_lacks(fake: type, theirs: Any) -> None:
    ours = {"cuda", "plans", "write", "fail", "above", "largest"}
    for name in (name for name in vars(fake) if not name.startswith("_") and name not in ours):
        assert hasattr(theirs, name), name


@pytest.mark.parametrize("kind", ["TensorIOMode", "TensorLocation", "DataType", "ExecutionContextAllocationStrategy"])
def test_fakes_constants_are_those_of_tensorrt(kind: str) -> None:
    assert {member.name for member in getattr(FakeTensorRT, kind)} <= set(getattr(real, kind).__members__)
