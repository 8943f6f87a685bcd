"""ONNX Runtime as a backend: small graphs loaded, held to their specification, run and closed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as library
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.support.paths import ROOT
from vexpress_rt.backends.base import Engine
from vexpress_rt.backends.onnxruntime import engine as onnxruntime
from vexpress_rt.backends.onnxruntime.engine import OnnxEngine, load
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec
from vexpress_rt.errors import BackendError, BackendMissingError, BundleDamagedError, ConfigError

FLOAT, UINT8, HALF, INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.INT64
Value = tuple[str, int, Sequence[int | str]]


def save(
    path: Path, nodes: list[Any], inputs: list[Value], outputs: list[Value], initializer: list[Any] | None = None
) -> Path:
    """Write a graph of `nodes`; an input or output is (name, element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        initializer or [],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def tensor(name: str, *shape: int | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, tuple("d" if size is None else str(size) for size in shape), shape, dtype)


SUM_SPEC = EngineSpec("adder", (tensor("a", 2, None), tensor("b", 2, None)), (tensor("sum", 2, None),))
MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def save_adder(folder: Path) -> Path:
    """sum = a + b over (2, N)."""
    return save(
        folder / "adder.onnx",
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        [("a", FLOAT, [2, "N"]), ("b", FLOAT, [2, "N"])],
        [("sum", FLOAT, [2, "N"])],
    )


@pytest.fixture
def adder(tmp_path: Path) -> Path:
    return save_adder(tmp_path)


@pytest.fixture
def reshaper(tmp_path: Path) -> Path:
    """out = a in the shape of the other input."""
    return save(
        tmp_path / "reshaper.onnx",
        [helper.make_node("Expand", ["a", "shape"], ["out"])],
        [("a", FLOAT, [1]), ("shape", INT64, [1])],
        [("out", FLOAT, ["M"])],
    )


RESHAPER_SPEC = EngineSpec("reshaper", (tensor("a", 1), tensor("shape", 1, dtype="int64")), (tensor("out", None),))


def test_an_engine_gives_its_outputs_by_name(adder: Path) -> None:
    engine = load(adder, SUM_SPEC)
    outputs = engine.run({"b": MATRIX, "a": 2 * MATRIX})
    assert list(outputs) == ["sum"]
    assert np.array_equal(outputs["sum"], 3 * MATRIX)
    assert outputs["sum"].dtype == np.float32


def test_an_engine_knows_its_specification_and_is_one(adder: Path) -> None:
    engine: Engine = load(str(adder), SUM_SPEC)
    assert engine.spec is SUM_SPEC


def test_arrays_need_not_be_contiguous(adder: Path) -> None:
    transposed = np.asfortranarray(MATRIX)
    assert np.array_equal(load(adder, SUM_SPEC).run({"a": transposed, "b": transposed})["sum"], 2 * MATRIX)


@pytest.mark.parametrize(
    ("element", "dtype"), [(UINT8, "uint8"), (HALF, "float16"), (INT64, "int64"), (TensorProto.DOUBLE, "float64")]
)
def test_dtypes_go_through_unchanged(tmp_path: Path, element: int, dtype: str) -> None:
    path = save(tmp_path / "e.onnx", [helper.make_node("Identity", ["x"], ["y"])],
                [("x", element, [3])], [("y", element, [3])])  # fmt: skip
    spec = EngineSpec("identity", (tensor("x", 3, dtype=dtype),), (tensor("y", 3, dtype=dtype),))
    x = np.array([0, 1, 255], dtype)
    y = load(path, spec).run({"x": x})["y"]
    assert y.dtype == x.dtype
    assert np.array_equal(y, x)


def test_one_thread_or_two_give_the_same(adder: Path) -> None:
    single, double = (load(adder, SUM_SPEC, threads=count) for count in (1, 2))
    inputs = {"a": MATRIX, "b": MATRIX}
    assert np.array_equal(single.run(inputs)["sum"], double.run(inputs)["sum"])


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_an_impossible_number_of_threads_is_refused(adder: Path, threads: Any) -> None:
    with pytest.raises(ConfigError, match=f"threads is {threads!r}; expected a whole number of at least 1"):
        load(adder, SUM_SPEC, threads=threads)


def test_weights_beside_the_graph_are_found(tmp_path: Path) -> None:
    weights = np.arange(300, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "test", [helper.make_tensor_value_info("x", FLOAT, [300])],
        [helper.make_tensor_value_info("y", FLOAT, [300])], [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(tmp_path / "e.onnx"), save_as_external_data=True, location="e.weights", size_threshold=0)
    spec = EngineSpec("e", (tensor("x", 300),), (tensor("y", 300),))
    assert np.array_equal(load(tmp_path / "e.onnx", spec).run({"x": weights})["y"], 2 * weights)
    (tmp_path / "e.weights").unlink()
    with pytest.raises(BackendError, match=r"engine e cannot be loaded from .*e\.onnx"):
        load(tmp_path / "e.onnx", spec)


def test_every_mismatch_between_file_and_specification_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "e.onnx", [helper.make_node("Add", ["a", "b"], ["sum"])],
                [("a", FLOAT, [2, 5]), ("b", FLOAT, [2, 5])], [("sum", FLOAT, [2, 5])])  # fmt: skip
    spec = EngineSpec("e", (tensor("a", 2, None), tensor("c", 1)), (tensor("sum", 2, 5, dtype="float16"),))
    with pytest.raises(BundleDamagedError) as caught:
        load(path, spec)
    for part in (
        "e has the input a: float32 (2, 5); expected a: float32 (2, d)",
        "e lacks the input c: float32 (1)",
        "e has an unknown input b: float32 (2, 5)",
        "e has the output sum: float32 (2, 5); expected sum: float16 (2, 5)",
        "python -m export.build --engine e",
    ):
        assert part in str(caught.value)


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"hello")
    with pytest.raises(BackendError, match=r"engine adder cannot be loaded from .*junk.onnx: "):
        load(tmp_path / "junk.onnx", SUM_SPEC)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"engine adder cannot be loaded from .*none.onnx"):
        load(tmp_path / "none.onnx", SUM_SPEC)


def test_loading_and_failing_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str], reshaper: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"hello")
    with pytest.raises(BackendError):
        load(tmp_path / "junk.onnx", None)
    with pytest.raises(BackendError):
        load(reshaper, RESHAPER_SPEC).run({"a": np.zeros(1, np.float32), "shape": np.array([-5])})
    assert capfd.readouterr() == ("", "")


def test_every_wrong_input_of_a_call_is_named(adder: Path) -> None:
    engine = load(adder, SUM_SPEC)
    with pytest.raises(BackendError) as caught:
        engine.run({"a": MATRIX.astype(np.float64), "c": MATRIX})
    for part in (
        "adder lacks the input b",
        "unknown input c",
        "adder has the input a: float64 (2, 3); expected a: float32",
    ):
        assert part in str(caught.value)


@pytest.fixture(scope="module")
def loaded_adder(tmp_path_factory: pytest.TempPathFactory) -> OnnxEngine:
    return load(save_adder(tmp_path_factory.mktemp("adder")), SUM_SPEC)


@given(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(["float32", "float16", "uint8", ">f4", "bool"]))
def test_a_call_runs_if_and_only_if_shape_and_dtype_fit(loaded_adder: OnnxEngine, shape: list[int], dtype: str) -> None:
    array = np.ones(shape, dtype)
    if len(shape) == 2 and shape[0] == 2 and dtype == "float32":
        assert np.array_equal(loaded_adder.run({"a": array, "b": array})["sum"], array + array)
    else:
        with pytest.raises(BackendError, match="engine adder was called with wrong inputs"):
            loaded_adder.run({"a": array, "b": array})


def test_what_is_no_array_is_named_as_what_it_would_be(adder: Path) -> None:
    with pytest.raises(BackendError, match=r"input a: int64 \(2\)"):
        load(adder, SUM_SPEC).run({"a": [1, 2], "b": MATRIX})  # type: ignore[dict-item]


def test_what_the_library_complains_about_carries_the_engines_name(adder: Path) -> None:
    with pytest.raises(BackendError, match=r"engine adder failed: .*3 by 4"):
        load(adder, SUM_SPEC).run({"a": MATRIX, "b": np.zeros((2, 4), np.float32)})


def test_running_out_of_memory_is_told_with_a_remedy(reshaper: Path) -> None:
    huge = {"a": np.zeros(1, np.float32), "shape": np.array([1 << 50])}
    with pytest.raises(BackendError, match=r"engine reshaper failed: memory ran out .*fewer --frames"):
        load(reshaper, RESHAPER_SPEC).run(huge)


def test_an_output_of_another_size_than_specified_is_refused(reshaper: Path) -> None:
    spec = EngineSpec("reshaper", RESHAPER_SPEC.inputs, (tensor("out", 4),))
    engine = load(reshaper, spec)
    assert engine.run({"a": np.ones(1, np.float32), "shape": np.array([4])})["out"].shape == (4,)
    with pytest.raises(
        BackendError,
        match=r"returned other outputs than specified: .*output out: float32 \(5\); expected out: float32 \(4\)",
    ):
        engine.run({"a": np.ones(1, np.float32), "shape": np.array([5])})


def detector(tmp_path: Path) -> Path:
    """Write a graph whose first output has another size than it declares, as in released detectors."""
    return save(
        tmp_path / "det_10g.onnx",
        [helper.make_node("Relu", ["input.1"], ["448"]), helper.make_node("Neg", ["input.1"], ["451"])],
        [("input.1", FLOAT, [1, 3, "?", "?"])],
        [("448", FLOAT, [1, 3, 640, 640]), ("451", FLOAT, [1, 3, "h", "w"])],
    )


def test_without_a_specification_an_engine_takes_its_files_own(tmp_path: Path) -> None:
    spec = load(detector(tmp_path), None).spec
    assert spec.name == "det_10g"
    assert [(t.name, t.shape, t.dtype) for t in spec.inputs] == [("input.1", (1, 3, None, None), "float32")]
    assert [t.name for t in spec.outputs] == ["448", "451"]


def test_a_detector_runs_by_position_and_gives_outputs_in_the_files_order(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(np.float32)
    first, second = load(detector(tmp_path), None).run_positional(picture)
    assert np.array_equal(first, np.maximum(picture, 0))
    assert np.array_equal(second, -picture)


def test_a_call_by_position_is_checked_like_one_by_name(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"input.1: float32 \(1, 4, 5\); expected input.1"):
        load(detector(tmp_path), None).run_positional(np.zeros((1, 4, 5), np.float32))


def test_an_engine_with_two_inputs_cannot_be_called_by_position(adder: Path) -> None:
    with pytest.raises(BackendError, match="engine adder takes a, b; expected one input"):
        load(adder, SUM_SPEC).run_positional(MATRIX)


def test_a_closed_engine_says_so(adder: Path) -> None:
    engine = load(adder, SUM_SPEC)
    engine.close()
    engine.close()
    with pytest.raises(BackendError, match="engine adder was closed"):
        engine.run({"a": MATRIX, "b": MATRIX})


def test_a_with_block_closes_its_engine(adder: Path) -> None:
    with load(adder, SUM_SPEC) as engine:
        engine.run({"a": MATRIX, "b": MATRIX})
    with pytest.raises(BackendError, match="was closed"):
        engine.run({"a": MATRIX, "b": MATRIX})


def test_a_missing_library_says_what_to_install(adder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissingError, match="install it with `pip install onnxruntime`"):
        load(adder, SUM_SPEC)


def test_importing_the_backend_does_not_load_its_library() -> None:
    code = "import sys, vexpress_rt.backends.onnxruntime.engine; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_running_leaves_the_callers_floating_point_mode_alone(adder: Path) -> None:
    # In a process of its own: only ONNX Runtime's first session sets the treatment of subnormal numbers.
    code = f"""
import sys
import numpy as np
from vexpress_rt.backends.onnxruntime.engine import load
spec = load({str(adder)!r}, None).spec
x = np.full((2, 3), 1e-40, np.float32)
total = load({str(adder)!r}, spec).run({{"a": x, "b": x}})["sum"]
sys.exit(not ((total > 0).all() and (x * np.float32(1) > 0).all()))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


GREEDY = """
import sys
import numpy as np
from vexpress_rt.backends.onnxruntime import engine as onnxruntime
from vexpress_rt.errors import BackendError

onnxruntime.memory_limit = lambda: 64 << 20
with onnxruntime.load(sys.argv[1], None, threads=1) as engine:
    try:
        engine.run({"x": np.zeros(1 << 20, np.float32)})
    except BackendError as error:
        print(error)
"""


def test_an_engine_that_needs_more_memory_than_available_is_an_error(tmp_path: Path) -> None:
    """Runs in a process of its own, because all engines of a process share one arena."""
    names = ["x", *"abcdef"]
    nodes = [helper.make_node("Concat", [last, last], [made], axis=0) for last, made in pairwise(names)]
    save(tmp_path / "greedy.onnx", nodes, [("x", FLOAT, ["N"])], [("f", FLOAT, ["M"])])
    command = [sys.executable, "-c", GREEDY, str(tmp_path / "greedy.onnx")]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert re.match(r"engine greedy failed: memory ran out \(.*smaller than requested", told.stdout), told


def test_engines_may_have_most_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < onnxruntime.memory_limit() <= whole // 8 * 7
    for known, limit in ((800_000_000, 700_000_000), (None, 0)):
        monkeypatch.setattr(onnxruntime, "whole_memory", lambda known=known: known)
        assert onnxruntime.memory_limit() == limit


def test_threads_that_load_at_once_make_one_arena() -> None:
    made: list[int] = []

    class Library:
        """ONNX Runtime, where making an arena takes a while and a second one is refused."""

        OrtAllocatorType = OrtMemType = type("Kinds", (), {"ORT_ARENA_ALLOCATOR": 1, "DEFAULT": 0})
        SessionOptions = library.SessionOptions

        OrtArenaCfg = dict
        OrtMemoryInfo = staticmethod(lambda *words: words)

        @staticmethod
        def create_and_register_allocator(info: object, options: object) -> None:
            made.append(1)
            time.sleep(0.05)

    stand_in = Library()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: onnxruntime.cpu_options(stand_in, 1), range(4)))
    assert made == [1]
