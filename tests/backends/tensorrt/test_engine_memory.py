"""TensorRT engines short of memory, in shared activation memory, as CUDA graphs, and in several threads."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.fake_cuda import FakeCuda
from tests.doubles.fake_tensorrt import Context, FakeTensorRT, Plan
from tests.support.engines import CAPACITY, MATRIX, adder, doubler, fake_tensorrt, pooler, spec_of
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.tensorrt.engine import TensorRTEngine, load
from vexpress_rt.errors import BackendError

Load = Callable[..., TensorRTEngine]
MEGABYTE = 1 << 20


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
def eager_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def load_plan(tensorrt: FakeTensorRT, executor: Executor, tmp_path: Path) -> Iterator[Load]:
    """Loads an engine that computes as a plan says, into the shared executor; closes it in the end."""
    loaded: list[TensorRTEngine] = []

    def load_one(plan: Plan, name: str = "engine", **options: Any) -> TensorRTEngine:
        path = tensorrt.write(tmp_path / f"{name}-{len(loaded)}.engine", plan)
        loaded.append(load(path, spec_of(name, plan), **{"executor": executor, **options}))
        return loaded[-1]

    yield load_one
    for engine in loaded:
        engine.close()


def needing(size: int) -> Callable[[Any], int]:
    return lambda shapes: size


def double(engine: TensorRTEngine, value: float) -> None:
    """Run a doubler on `value` and check the result."""
    result = engine.run({"x": MATRIX + np.float32(value)})["y"]
    np.testing.assert_array_equal(result, 2 * (MATRIX + np.float32(value)))


# Memory that runs out


@pytest.mark.parametrize(
    ("plan", "what"),
    [
        (doubler(weights=2 * MEGABYTE), r"cannot be loaded from .*OutOfMemory \(Requested size was 2097152"),
        (doubler(persistent=2 * MEGABYTE), r"cannot be loaded from .*OutOfMemory \(Requested size was 2097152"),
        (doubler(activations=needing(2 * MEGABYTE)), r"activations of engine engine: .*requested 2\.0 MiB"),
        (doubler(inputs={"x": ("UINT8", (2 * MEGABYTE,))}), r"x of engine engine: .*requested 2\.0 MiB"),
        (doubler(outputs={"y": ("UINT8", (2 * MEGABYTE,))}), r"y of engine engine: .*requested 2\.0 MiB"),
    ],
)
def test_too_little_memory_shows_when_an_engine_is_loaded(
    tensorrt: FakeTensorRT, tmp_path: Path, plan: Plan, what: str
) -> None:
    with pytest.raises(BackendError, match=what) as caught:
        load(tensorrt.write(tmp_path / "e.engine", plan), spec_of("engine", plan))
    assert "are free" in str(caught.value)
    assert str(caught.value).count("fewer --frames") == 1
    assert tensorrt.cuda.machine.used == 0


def test_memory_that_runs_out_inside_a_run_is_told_and_the_next_run_works(load_plan: Load) -> None:
    engine = load_plan(doubler(failures=["Error Code 2: OutOfMemory (Requested size was 99 bytes.)"]))
    with pytest.raises(BackendError, match=r"engine engine failed: the GPU's memory ran out .* are free\): close"):
        engine.run({"x": MATRIX})
    for value in range(3):
        double(engine, value)


def test_too_little_memory_for_an_output_that_stays_is_told_and_the_next_run_works(
    load_plan: Load, cuda: FakeCuda
) -> None:
    engine = load_plan(adder())
    match = "difference of engine engine: the GPU's memory ran out"
    with runtime.allocate(CAPACITY - cuda.machine.used - 30), pytest.raises(BackendError, match=match):
        engine.run({"a": MATRIX, "b": MATRIX}, keep_on_device=True)
    gc.collect()  # frees the output that there was room for
    np.testing.assert_array_equal(engine.run({"a": MATRIX, "b": MATRIX})["sum"], 2 * MATRIX)


def test_too_long_a_clip_is_told_and_a_shorter_one_works(load_plan: Load, cuda: FakeCuda) -> None:
    engine = load_plan(pooler(activations=lambda shapes: 4096 * shapes["samples"][1]))
    with pytest.raises(BackendError, match=r"activations of engine engine: .*requested 3\.9 MiB"):
        engine.run({"samples": np.ones((1, 1000), np.float32)})
    assert engine.run({"samples": np.ones((1, 4), np.float32)})["means"].tolist() == [[1, 1]]


def test_what_fails_on_the_gpu_carries_the_engines_name(load_plan: Load) -> None:
    engine = load_plan(doubler(broken=1))
    with pytest.raises(BackendError, match="engine engine failed: cudaEventSynchronize: an illegal memory access"):
        engine.run({"x": MATRIX})


def test_what_tensorrt_complains_about_carries_the_engines_name(load_plan: Load) -> None:
    engine = load_plan(doubler(failures=["Error Code 3: shapes disagree"]))
    with pytest.raises(BackendError, match="engine engine failed: Error Code 3: shapes disagree"):
        engine.run({"x": MATRIX})
    double(engine, 1)


# One activation block for several engines


def test_engines_share_one_block_as_large_as_the_largest_asks_for(load_plan: Load, cuda: FakeCuda) -> None:
    sizes = (300_000, 400_000, 200_000)
    engines = [load_plan(doubler(activations=needing(size)), f"e{size}") for size in sizes]
    assert max(sizes) < cuda.machine.used < max(sizes) + 10_000
    for value in range(3):
        for engine in engines:
            double(engine, value)


def test_a_larger_engine_loaded_later_replaces_the_block_and_earlier_graphs_are_captured_anew(
    load_plan: Load, cuda: FakeCuda
) -> None:
    small = load_plan(doubler(activations=needing(1000)), "small")
    for value in range(3):
        double(small, value)
    assert small.captured
    large = load_plan(doubler(activations=needing(600_000)), "large")
    for value in range(3):
        double(small, value)
        double(large, value)
    assert small.captured
    assert large.captured
    assert cuda.machine.used < 610_000


def test_after_a_failure_to_enlarge_the_block_smaller_engines_still_run(load_plan: Load) -> None:
    small = load_plan(doubler(activations=needing(400_000)), "small")
    double(small, 1)
    with pytest.raises(BackendError, match="activations of engine large"):
        load_plan(doubler(activations=needing(2 * MEGABYTE)), "large")
    double(small, 2)


@pytest.mark.usefixtures("eager_threads")
def test_threads_that_run_engines_of_one_block_do_not_disturb_each_other(load_plan: Load) -> None:
    engines = [load_plan(doubler(), f"e{index}") for index in range(3)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda index: double(engines[index % 3], index), range(60)))


@pytest.mark.usefixtures("eager_threads")
def test_calls_of_one_engine_from_several_threads_are_done_one_after_another(load_plan: Load) -> None:
    engine, start = load_plan(doubler()), threading.Barrier(4)

    def work(index: int) -> None:
        start.wait()
        for call in range(20):
            double(engine, 100 * index + call)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


# CUDA graphs


def test_the_second_run_is_captured_and_replayed_from_then_on(
    load_plan: Load, cuda: FakeCuda, tensorrt: FakeTensorRT
) -> None:
    plan = doubler()
    engine = load_plan(plan)
    captured = []
    for value in range(5):
        double(engine, value)
        captured.append(engine.captured)
    assert captured == [False, True, True, True, True]
    assert cuda.calls["cudaGraphLaunch"] == 4
    assert plan.runs == 5


def test_graphs_can_be_left_out(load_plan: Load, cuda: FakeCuda) -> None:
    engine = load_plan(doubler(), graphs=False)
    for value in range(3):
        double(engine, value)
    assert cuda.calls["cudaStreamBeginCapture"] == 0


@pytest.mark.parametrize(
    ("changes", "failing", "reason"),
    [
        ({"capturable": False}, None, "TensorRT says that it cannot be captured"),
        ({"spoils": True}, None, "cudaStreamEndCapture: operation failed due to a previous error during capture"),
        ({}, "cudaStreamBeginCapture", "cudaStreamBeginCapture: operation failed"),
        ({}, "cudaGraphInstantiate", "cudaGraphInstantiate: operation failed"),
    ],
)
def test_an_engine_that_cannot_be_captured_runs_without_and_the_reason_is_logged_once(
    load_plan: Load, cuda: FakeCuda, caplog: pytest.LogCaptureFixture, changes: Any, failing: str | None, reason: str
) -> None:
    engine = load_plan(doubler(**changes))
    if failing:
        cuda.failures[failing] = [901]
    with caplog.at_level(logging.WARNING):
        for value in range(4):
            double(engine, value)
    assert not engine.captured
    (message,) = caplog.messages
    assert message.startswith("engine engine runs without a CUDA graph, which costs some speed: ")
    assert reason in message


def test_an_engine_that_fails_while_it_is_captured_runs_without(load_plan: Load, caplog: Any) -> None:
    plan = doubler()
    engine = load_plan(plan)
    double(engine, 0)
    plan.failures.append("Error Code 1: not while capturing")
    with caplog.at_level(logging.WARNING):
        double(engine, 1)
        double(engine, 2)
    assert not engine.captured
    assert caplog.messages == [
        "engine engine runs without a CUDA graph, which costs some speed: Error Code 1: not while capturing"
    ]


def test_tensorrt_10_which_cannot_tell_is_captured_on_trial(load_plan: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Context, "is_stream_capturable")
    engine = load_plan(doubler())
    for value in range(3):
        double(engine, value)
    assert engine.captured


def test_what_another_thread_runs_meanwhile_does_not_get_into_a_graph(
    load_plan: Load, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, other = load_plan(doubler()), load_plan(doubler())
    execute, pool, others = Context.execute_async_v3, ThreadPoolExecutor(1), []

    def execute_slowly(context: Context, stream: int) -> bool:
        if cuda.capturing(stream):
            others.append(pool.submit(double, other, 5))
            time.sleep(0.05)
        return execute(context, stream)

    monkeypatch.setattr(Context, "execute_async_v3", execute_slowly)
    with pool:
        for value in range(3):
            double(captured, value)
        assert captured.captured
        (running,) = others
        running.result()
