"""TensorRT engines loaded, held to their specification, and run, on fakes that enforce TensorRT's and CUDA's rules."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles import fake_tensorrt as fakes
from tests.doubles.fake_cuda import NO_DRIVER
from tests.doubles.fake_tensorrt import FakeTensorRT, Plan
from tests.doubles.fakes import FakeDeviceTensor
from tests.support.engines import CAPACITY, MATRIX, adder, doubler, fake_tensorrt, pooler, spec_of
from vexpress_rt.backends.base import Engine
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.tensorrt.engine import TensorRTEngine, load
from vexpress_rt.bundle.engine_spec import TensorSpec
from vexpress_rt.errors import BackendError, BackendMissingError, BundleDamagedError
from vexpress_rt.utils.project_links import EXPORTER

PLACE = re.escape(EXPORTER)

Load = Callable[..., TensorRTEngine]


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRT]:
    yield from fake_tensorrt(monkeypatch)


@pytest.fixture
def load_plan(tensorrt: FakeTensorRT, tmp_path: Path) -> Iterator[Load]:
    """Loads an engine that computes as a plan says, under the name `engine`; closes it in the end."""
    loaded: list[TensorRTEngine] = []

    def load_one(plan: Plan, **options: Any) -> TensorRTEngine:
        path = tensorrt.write(tmp_path / f"{len(loaded)}.engine", plan)
        loaded.append(load(path, spec_of("engine", plan), **options))
        return loaded[-1]

    yield load_one
    for engine in loaded:
        engine.close()


# Running


def test_an_engine_gives_its_outputs_by_name(load_plan: Load) -> None:
    outputs = load_plan(adder()).run({"b": MATRIX, "a": 3 * MATRIX})
    assert list(outputs) == ["sum", "difference"]
    np.testing.assert_array_equal(outputs["sum"], 4 * MATRIX)
    np.testing.assert_array_equal(outputs["difference"], 2 * MATRIX)


def test_an_engine_knows_its_specification_and_is_one(load_plan: Load) -> None:
    engine: Engine = load_plan(adder())
    assert engine.spec == spec_of("engine", adder())


def test_without_a_specification_an_engine_takes_its_files_own(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    with load(tensorrt.write(tmp_path / "pooler.engine", pooler()), None) as engine:
        assert engine.spec.inputs == (TensorSpec("samples", ("1", "-1"), (1, None), "float32"),)
        assert engine.spec.name == "pooler"


@pytest.mark.parametrize("dtype", ["FLOAT", "HALF", "UINT8", "INT64"])
def test_dtypes_go_through_unchanged(load_plan: Load, dtype: str) -> None:
    given = MATRIX.astype(fakes.DTYPES[dtype])
    result = load_plan(doubler(dtype)).run({"x": given})["y"]
    assert result.dtype == given.dtype
    np.testing.assert_array_equal(result, 2 * given)


def test_arrays_need_not_be_contiguous(load_plan: Load) -> None:
    result = load_plan(doubler()).run({"x": np.asfortranarray(MATRIX)})["y"]
    np.testing.assert_array_equal(result, 2 * MATRIX)


def test_results_of_earlier_calls_stay_as_they_were(load_plan: Load) -> None:
    engine = load_plan(doubler())
    results = [engine.run({"x": MATRIX + call})["y"] for call in range(4)]
    for call, result in enumerate(results):
        np.testing.assert_array_equal(result, 2 * (MATRIX + call))


def test_an_engine_runs_by_position(load_plan: Load) -> None:
    (result,) = load_plan(doubler()).run_positional(MATRIX)
    np.testing.assert_array_equal(result, 2 * MATRIX)
    with pytest.raises(BackendError, match="engine engine takes a, b; expected one input"):
        load_plan(adder()).run_positional(MATRIX)


def test_sizes_may_vary_where_the_specification_leaves_them_open(load_plan: Load) -> None:
    engine = load_plan(pooler())
    for count in (4, 1000, 2, 100, 100):
        samples = np.random.default_rng(count).standard_normal((1, count)).astype(np.float32)
        means = engine.run({"samples": samples})["means"]
        np.testing.assert_allclose(means, samples.reshape(1, -1, 2).mean(axis=2), rtol=1e-6)
    assert not engine.captured


def test_a_size_beyond_what_the_engine_was_built_for_is_named(load_plan: Load) -> None:
    engine = load_plan(pooler())
    engine.run({"samples": np.zeros((1, 8), np.float32)})
    with pytest.raises(BackendError, match=r"input samples is \(1, 1002\); expected from \(1, 2\) to \(1, 1000\)"):
        engine.run({"samples": np.zeros((1, 1002), np.float32)})
    assert engine.run({"samples": np.ones((1, 8), np.float32)})["means"].tolist() == [[1, 1, 1, 1]]


def test_after_a_size_that_was_refused_the_one_before_works(load_plan: Load) -> None:
    engine = load_plan(pooler(sizes=lambda shapes: {"means": (1, {500: -1}.get(n := shapes["samples"][1], n // 2))}))
    for count in (1000, 500, 1000):
        samples = np.ones((1, count), np.float32)
        if count == 500:
            with pytest.raises(BackendError):
                engine.run({"samples": samples})
        else:
            np.testing.assert_array_equal(engine.run({"samples": samples})["means"], np.ones((1, 500)))


def test_a_size_that_depends_on_values_is_refused(load_plan: Load) -> None:
    with pytest.raises(BackendError, match=r"the size of output means, \(1, -1\), depends on values"):
        load_plan(pooler(sizes=lambda shapes: {})).run({"samples": np.zeros((1, 8), np.float32)})


# Engines and inputs that do not fit


def change(side: dict[str, tuple[str, tuple[int, ...]]], **changes: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: value for name, value in {**side, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("inputs", "outputs", "complaint"),
    [
        ({"a": ("HALF", (2, 3))}, {}, "has the input a: float16 (2, 3); expected a: float32 (2, 3)"),
        ({"a": ("FLOAT", (2, 4))}, {}, "has the input a: float32 (2, 4); expected a: float32 (2, 3)"),
        ({"a": ("FLOAT", (-1, 3))}, {}, ""),
        ({}, {"sum": ("FLOAT", (6,))}, "has the output sum: float32 (6); expected sum: float32 (2, 3)"),
        ({"a": None}, {}, "lacks the input a: float32 (2, 3)"),
        ({}, {"difference": None}, "lacks the output difference: float32 (2, 3)"),
        ({"c": ("INT64", (1,))}, {}, "has an unknown input c: int64 (1)"),
        ({}, {"spare": ("UINT8", (1,))}, "has an unknown output spare: uint8 (1)"),
        ({"a": None}, {"a": ("FLOAT", (2, 3))}, "lacks the input a: float32 (2, 3)"),
        ({"a": ("HALF", (1,)), "b": None}, {"sum": ("HALF", (2, 3))}, "expected sum: float32 (2, 3)"),
    ],
)
def test_a_binding_that_is_not_as_specified_is_named(
    tensorrt: FakeTensorRT, tmp_path: Path, inputs: Any, outputs: Any, complaint: str
) -> None:
    plan = adder()
    plan.inputs, plan.outputs = change(plan.inputs, **inputs), change(plan.outputs, **outputs)
    plan.ranges = {"a": ((1, 3), (2, 3), (2, 3))}
    path = tensorrt.write(tmp_path / "adder.engine", plan)
    if not complaint:  # open sizes fit any
        load(path, spec_of("adder", adder())).close()
        return
    with pytest.raises(BundleDamagedError, match=re.escape(complaint)) as caught:
        load(path, spec_of("adder", adder()))
    assert "adder.engine is not the engine adder of this bundle" in str(caught.value)
    assert "build it again with `python -m export.build --engine adder`" in str(caught.value)


def test_every_mismatch_is_in_one_error(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    plan = adder(inputs={"a": ("HALF", (2, 3)), "c": ("FLOAT", (1,))}, outputs={"sum": ("FLOAT", (3, 2))})
    with pytest.raises(BundleDamagedError) as caught:
        load(tensorrt.write(tmp_path / "adder.engine", plan), spec_of("adder", adder()))
    for part in (
        "input a: float16",
        "lacks the input b",
        "unknown input c",
        "output sum: float32 (3, 2)",
        "difference",
    ):
        assert part in str(caught.value)


def test_every_wrong_input_of_a_call_is_named(load_plan: Load) -> None:
    with pytest.raises(BackendError) as caught:
        load_plan(adder()).run({"a": MATRIX.astype(np.float16), "c": MATRIX[:1]})
    for part in (
        "lacks the input b",
        "unknown input c: float32 (1, 3)",
        "input a: float16 (2, 3); expected a: float32",
    ):
        assert part in str(caught.value)


def test_a_tensor_of_another_kind_of_device_is_refused(load_plan: Load) -> None:
    with pytest.raises(BackendError, match=r"input x of engine engine is not on the GPU: pass the array of its numpy"):
        load_plan(doubler()).run({"x": FakeDeviceTensor(MATRIX)})


def test_an_engine_with_tensors_of_the_host_is_refused(load_plan: Load) -> None:
    with pytest.raises(BackendError, match="sum is a tensor in the host's memory"):
        load_plan(adder(on_host=("sum",)))


# Files, libraries, GPUs


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file"), (b"", "empty"), (b"PK", r"TensorRT 11.4.0 refuses it .*not compatible")],
)
def test_a_file_that_is_no_engine_is_named(
    tensorrt: FakeTensorRT, tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "denoiser.engine"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BackendError, match=rf"engine engine cannot be loaded from .*denoiser.engine: .*{why}"):
        load(path, spec_of("engine", adder()))


def test_an_engine_that_tensorrt_refuses_comes_with_the_command_that_builds_it(
    tensorrt: FakeTensorRT, tmp_path: Path
) -> None:
    (tmp_path / "old.engine").write_bytes(b"of another version")
    with pytest.raises(BackendError, match=r"python -m export\.build --target tensorrt`"):
        load(tmp_path / "old.engine", None)


@pytest.mark.parametrize(
    ("capability", "remedy"),
    [
        ((9, 0), rf"is not made for A GPU \(9\.0\): build .*--target tensorrt` {PLACE}, or use provider='auto'$"),
        (
            (8, 9),
            rf"build the bundle again on this machine with `python -m export\.build --target tensorrt-rtx` {PLACE}$",
        ),
    ],
)
def test_no_build_for_rtx_is_recommended_on_another_gpu(
    tensorrt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], remedy: str
) -> None:
    tensorrt.__version__ = "1.7.1"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", tensorrt)
    monkeypatch.setattr(runtime, "name_and_capability", lambda: ("A GPU", capability))
    (tmp_path / "old.engine").write_bytes(b"of RTX")
    with pytest.raises(BackendError, match=remedy):
        load(tmp_path / "old.engine", None, target="tensorrt-rtx")


def test_without_a_gpu_the_error_says_so(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    tensorrt.cuda.failures["cudaGetDeviceCount"] = [NO_DRIVER]
    with pytest.raises(BackendError, match="no NVIDIA GPU can be used"):
        load(tmp_path / "any.engine", None)


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendMissingError, match=r"vexpress-rt\[tensorrt\]"):
        load(tmp_path / "any.engine", None)


def test_a_real_library_refuses_what_is_no_engine_in_its_own_words(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    (tmp_path / "junk.engine").write_bytes(b"junk" * 1000)
    with pytest.raises(BackendError, match=r"TensorRT for RTX .* refuses it \(.*(Error Code|[Ss]erializ|Cuda)"):
        load(tmp_path / "junk.engine", None, target="tensorrt-rtx")


# Closing


def test_a_closed_engine_says_so_and_closing_twice_is_allowed(load_plan: Load) -> None:
    engine = load_plan(adder())
    engine.close()
    engine.close()
    with pytest.raises(BackendError, match="engine engine was closed"):
        engine.run({"a": MATRIX, "b": MATRIX})


def test_a_with_block_frees_everything(load_plan: Load, tensorrt: FakeTensorRT) -> None:
    with load_plan(adder()) as engine:
        engine.run({"a": MATRIX, "b": MATRIX})
        assert tensorrt.cuda.machine.used > 0
    assert tensorrt.cuda.left() == []


def test_a_closed_executor_is_told_as_such_and_what_it_computed_stays(load_plan: Load) -> None:
    executor = Executor()
    engine = load_plan(doubler(), executor=executor)
    tensor = engine.run({"x": MATRIX}, keep_on_device=True)["y"]
    executor.close()
    executor.close()
    np.testing.assert_array_equal(tensor.numpy(), 2 * MATRIX)
    with pytest.raises(BackendError, match="was closed"):
        engine.run({"x": MATRIX})


def test_memory_is_taken_when_an_engine_of_fixed_sizes_is_loaded(load_plan: Load, tensorrt: FakeTensorRT) -> None:
    engine = load_plan(adder(activations=lambda shapes: CAPACITY // 2))
    used = tensorrt.cuda.machine.used
    assert used > CAPACITY // 2
    for _ in range(3):
        engine.run({"a": MATRIX, "b": MATRIX})
    assert tensorrt.cuda.machine.used == used
