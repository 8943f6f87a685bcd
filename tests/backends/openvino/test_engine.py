"""OpenVINO as a backend: small graphs loaded, held to their specification, run and closed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.onnx_graphs import DOUBLE, FLOAT, HALF, INT64, UINT8, node, save, weight
from tests.support.paths import ROOT
from vexpress_rt.backends.base import Engine
from vexpress_rt.backends.openvino.engine import OpenVinoEngine, load
from vexpress_rt.backends.openvino.options import EngineOptions
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec
from vexpress_rt.errors import BackendError, BundleDamagedError, ConfigError

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def tensor(name: str, *shape: int | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, tuple("d" if size is None else str(size) for size in shape), shape, dtype)


def save_adder(folder: Path) -> Path:
    """sum = a + b over (2, N)."""
    save(
        folder / "adder.onnx",
        [node("Add", "a b", "sum")],
        [("a", FLOAT, [2, "N"]), ("b", FLOAT, [2, "N"])],
        [("sum", FLOAT, [2, "N"])],
    )
    return folder / "adder.onnx"


SUM_SPEC = EngineSpec("adder", (tensor("a", 2, None), tensor("b", 2, None)), (tensor("sum", 2, None),))


@pytest.fixture(scope="module")
def adder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adder(tmp_path_factory.mktemp("adder"))


@pytest.fixture(scope="module")
def adder(adder_path: Path) -> OpenVinoEngine:
    return load(adder_path, SUM_SPEC)


def save_products(path: Path, layers: int = 40, side: int = 1024) -> EngineSpec:
    """Write a graph of matrix products one after another, which takes a while."""
    names = ["x", *(f"t{layer}" for layer in range(layers - 1)), "y"]
    nodes = [node("MatMul", f"{below} w", above) for below, above in pairwise(names)]
    ends = [("x", FLOAT, [side, side])], [("y", FLOAT, [side, side])]
    return save(path, nodes, *ends, [weight("w", side, side)])


def test_an_engine_gives_its_outputs_by_name(adder: OpenVinoEngine) -> None:
    outputs = adder.run({"b": MATRIX, "a": 2 * MATRIX}, keep_on_device=True)
    assert list(outputs) == ["sum"]
    np.testing.assert_array_equal(outputs["sum"], 3 * MATRIX)
    assert type(outputs["sum"]) is np.ndarray


def test_an_engine_knows_its_specification_and_is_one(adder_path: Path) -> None:
    engine: Engine = load(str(adder_path), SUM_SPEC)
    assert engine.spec is SUM_SPEC


def test_arrays_need_be_neither_contiguous_nor_writable(adder: OpenVinoEngine) -> None:
    transposed, sealed = np.asfortranarray(MATRIX), MATRIX.copy()
    sealed.flags.writeable = False
    np.testing.assert_array_equal(adder.run({"a": transposed, "b": sealed})["sum"], 2 * MATRIX)
    np.testing.assert_array_equal(sealed, MATRIX)


def test_outputs_are_the_callers_own(adder: OpenVinoEngine) -> None:
    first = adder.run({"a": MATRIX, "b": MATRIX})["sum"]
    assert first.flags.owndata
    assert first.flags.writeable
    adder.run({"a": 5 * MATRIX, "b": MATRIX})
    np.testing.assert_array_equal(first, 2 * MATRIX)


def test_an_output_that_is_an_input_is_a_copy(tmp_path: Path) -> None:
    spec = save(tmp_path / "e.onnx", [node("Identity", "x", "y")], [("x", FLOAT, [3])], [("y", FLOAT, [3])])
    x = np.ones(3, np.float32)
    y = load(tmp_path / "e.onnx", spec).run({"x": x})["y"]
    x[:] = 0
    np.testing.assert_array_equal(y, 1)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [(UINT8, "uint8"), (HALF, "float16"), (INT64, "int64"), (DOUBLE, "float64")],
)
def test_dtypes_go_through_unchanged(tmp_path: Path, element: int, dtype: str) -> None:
    spec = save(tmp_path / "e.onnx", [node("Identity", "x", "y")], [("x", element, [3])], [("y", element, [3])])
    x = np.array([0, 1, 255], dtype)
    y = load(tmp_path / "e.onnx", spec).run({"x": x})["y"]
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)


def test_two_outputs_of_one_tensor_keep_their_names(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "y"), node("Identity", "y", "z")]
    spec = save(tmp_path / "e.onnx", nodes, [("x", FLOAT, [3])], [("z", FLOAT, [3]), ("y", FLOAT, [3])])
    outputs = load(tmp_path / "e.onnx", spec).run({"x": np.array([-1, 0, 2], np.float32)})
    assert {name: list(array) for name, array in outputs.items()} == {"z": [0, 0, 2], "y": [0, 0, 2]}


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_an_impossible_number_of_threads_is_refused(adder_path: Path, threads: Any) -> None:
    with pytest.raises(ConfigError, match=f"threads is {threads!r}; expected a whole number of at least 1"):
        load(adder_path, SUM_SPEC, EngineOptions(threads=threads))


def test_every_mismatch_between_file_and_specification_is_named(tmp_path: Path) -> None:
    ends = [("a", FLOAT, [2, 5]), ("b", FLOAT, [2, 5])], [("sum", FLOAT, [2, 5])]
    save(tmp_path / "e.onnx", [node("Add", "a b", "sum")], *ends)
    spec = EngineSpec("e", (tensor("a", 2, None), tensor("c", 1)), (tensor("sum", 2, 5, dtype="float16"),))
    with pytest.raises(BundleDamagedError) as caught:
        load(tmp_path / "e.onnx", spec)
    for part in (
        "e has the input a: float32 (2, 5); expected a: float32 (2, d)",
        "e lacks the input c: float32 (1)",
        "e has an unknown input b: float32 (2, 5)",
        "e has the output sum: float32 (2, 5); expected sum: float16 (2, 5)",
        "python -m export.build --engine e",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", [b"hello", b"<net/>", None])
def test_a_file_that_is_no_graph_is_named_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "junk.onnx").write_bytes(content)
    with pytest.raises(BackendError, match=r"engine adder cannot be loaded from .*junk.onnx: "):
        load(tmp_path / "junk.onnx", SUM_SPEC)
    assert capfd.readouterr() == ("", "")


def test_a_graph_with_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    spec = save(tmp_path / "e.onnx", [node("Divine", "x", "y")], [("x", FLOAT, [3])], [("y", FLOAT, [3])])
    with pytest.raises(BackendError, match=r"engine e cannot be loaded from .*Divine"):
        load(tmp_path / "e.onnx", spec)


def test_weights_beside_the_graph_are_found(tmp_path: Path) -> None:
    ends = [("x", FLOAT, [300])], [("y", FLOAT, [300])]
    spec = save(tmp_path / "e.onnx", [node("Add", "x w", "y")], *ends, [weight("w", 300)], external="e.weights")
    x = np.zeros(300, np.float32)
    assert np.abs(load(tmp_path / "e.onnx", spec).run({"x": x})["y"]).max() > 0.5
    (tmp_path / "e.weights").unlink()
    with pytest.raises(BackendError, match=r"engine e cannot be loaded from .*e\.onnx"):
        load(tmp_path / "e.onnx", spec)


def test_every_wrong_input_of_a_call_is_named(adder: OpenVinoEngine) -> None:
    with pytest.raises(BackendError) as caught:
        adder.run({"a": MATRIX.astype(np.float64), "c": MATRIX})
    for part in (
        "adder lacks the input b",
        "unknown input c",
        "adder has the input a: float64 (2, 3); expected a: float32",
    ):
        assert part in str(caught.value)


@given(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(["float32", "float16", "uint8", ">f4", "bool"]))
def test_a_call_runs_if_and_only_if_shape_and_dtype_fit(adder: OpenVinoEngine, shape: list[int], dtype: str) -> None:
    array = np.ones(shape, dtype)
    if len(shape) == 2 and shape[0] == 2 and dtype == "float32":
        np.testing.assert_array_equal(adder.run({"a": array, "b": array})["sum"], array + array)
    else:
        with pytest.raises(BackendError, match="engine adder was called with wrong inputs"):
            adder.run({"a": array, "b": array})


def test_errors_of_the_library_name_the_engine(adder: OpenVinoEngine) -> None:
    with pytest.raises(BackendError, match=r"engine adder failed: "):
        adder.run({"a": MATRIX, "b": np.zeros((2, 4), np.float32)})
    np.testing.assert_array_equal(adder.run({"a": MATRIX, "b": MATRIX})["sum"], 2 * MATRIX)


def test_an_output_of_another_size_than_specified_is_refused(tmp_path: Path) -> None:
    ends = [("a", FLOAT, [1]), ("shape", INT64, [1])], [("out", FLOAT, ["M"])]
    spec = save(tmp_path / "e.onnx", [node("Expand", "a shape", "out")], *ends)
    engine = load(tmp_path / "e.onnx", EngineSpec("e", spec.inputs, (tensor("out", 4),)))
    assert engine.run({"a": np.ones(1, np.float32), "shape": np.array([4])})["out"].shape == (4,)
    with pytest.raises(BackendError, match=r"returned other outputs .*out: float32 \(5\); expected out: float32 \(4\)"):
        engine.run({"a": np.ones(1, np.float32), "shape": np.array([5])})


def save_detector(tmp_path: Path) -> Path:
    """Write a graph whose first output has another size than it declares, as in released detectors."""
    nodes = [node("Relu", "input.1", "448"), node("Neg", "input.1", "451")]
    outputs = [("448", FLOAT, [1, 3, 640, 640]), ("451", FLOAT, [1, 3, "h", "w"])]
    save(tmp_path / "det_10g.onnx", nodes, [("input.1", FLOAT, [1, 3, "?", "?"])], outputs)
    return tmp_path / "det_10g.onnx"


def test_a_detector_runs_by_position_and_gives_outputs_in_the_files_order(tmp_path: Path) -> None:
    engine = load(save_detector(tmp_path), None)
    assert engine.spec.name == "det_10g"
    assert [(t.name, t.shape, t.dtype) for t in engine.spec.inputs] == [("input.1", (1, 3, None, None), "float32")]
    for size in ((4, 5), (7, 3)):
        picture = np.random.default_rng(0).standard_normal((1, 3, *size)).astype(np.float32)
        first, second = engine.run_positional(picture)
        np.testing.assert_array_equal(first, np.maximum(picture, 0))
        np.testing.assert_array_equal(second, -picture)


def test_a_call_by_position_is_checked_like_one_by_name(tmp_path: Path, adder: OpenVinoEngine) -> None:
    with pytest.raises(BackendError, match=r"input.1: float32 \(1, 4, 5\); expected input.1"):
        load(save_detector(tmp_path), None).run_positional(np.zeros((1, 4, 5), np.float32))
    with pytest.raises(BackendError, match="engine adder takes a, b; expected one input"):
        adder.run_positional(MATRIX)


def test_a_closed_engine_says_so(adder_path: Path) -> None:
    with load(adder_path, SUM_SPEC) as engine:
        engine.run({"a": MATRIX, "b": MATRIX})
    engine.close()
    with pytest.raises(BackendError, match="engine adder was closed"):
        engine.run({"a": MATRIX, "b": MATRIX})


def test_importing_the_backend_does_not_load_its_library() -> None:
    code = (
        "import sys, vexpress_rt.backends.openvino.engine, vexpress_rt.backends.openvino.provider\n"
        "sys.exit('openvino' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_running_leaves_the_callers_floating_point_mode_alone(adder_path: Path) -> None:
    engine = load(adder_path, None)
    x = np.full((2, 3), 1e-40, np.float32)
    total = engine.run({"a": x, "b": x})["sum"]
    assert (total > 0).all()
    assert (x * np.float32(1) > 0).all()


# Several threads, and the end of the interpreter


def test_threads_that_share_an_engine_get_their_own_results(tmp_path: Path) -> None:
    spec = save_products(tmp_path / "products.onnx", layers=4, side=64)
    rng, found = np.random.default_rng(0), dict[int, Any]()
    inputs = [rng.standard_normal((64, 64)).astype(np.float32) for _ in range(8)]
    with load(tmp_path / "products.onnx", spec) as engine:
        expected = [engine.run({"x": x})["y"] for x in inputs]

        def run(thread: int) -> None:
            found[thread] = [engine.run({"x": x})["y"] for x in inputs[thread:] * 10]

        threads = [threading.Thread(target=run, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for thread in range(4):
        for one, other in zip(found[thread], expected[thread:] * 10, strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_engine_that_is_closed_while_it_runs_finishes_the_run(tmp_path: Path) -> None:
    spec = save_products(tmp_path / "products.onnx")
    engine, x, found = load(tmp_path / "products.onnx", spec), np.zeros((1024, 1024), np.float32), []
    thread = threading.Thread(target=lambda: found.append(engine.run({"x": x})["y"]))
    thread.start()
    time.sleep(0.05)
    engine.close()
    thread.join()
    np.testing.assert_array_equal(found[0], x)


_EXIT = """
import sys, threading, time
import numpy as np
from vexpress_rt.backends.openvino.engine import load
engine = load(sys.argv[1], None)
x = np.zeros((1024, 1024), np.float32)
engine.run({"x": x})
threading.Thread(target=lambda: [engine.run({"x": x}) for _ in range(1000)], daemon=True).start()
time.sleep(0.2)
"""


def test_the_interpreter_ends_while_a_daemon_thread_runs_an_engine(tmp_path: Path) -> None:
    save_products(tmp_path / "products.onnx")
    command = [sys.executable, "-c", _EXIT, str(tmp_path / "products.onnx")]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


_GREEDY = """
import resource, sys
import numpy as np
from vexpress_rt.backends.openvino.engine import load
from vexpress_rt.errors import BackendError
engine = load(sys.argv[1], None)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), -1))
try:
    engine.run({"x": np.zeros(1 << 22, np.float32)})
except BackendError as error:
    print(error)
print(engine.run({"x": np.ones(2, np.float32)})["y"].sum())
"""


def test_an_engine_that_needs_more_memory_than_it_may_have_is_an_error(tmp_path: Path) -> None:
    names = ["x", *"abcdefy"]
    nodes = [node("Concat", f"{last} {last}", made, axis=0) for last, made in pairwise(names)]
    save(tmp_path / "greedy.onnx", nodes, [("x", FLOAT, ["N"])], [("y", FLOAT, ["M"])])
    command = [sys.executable, "-c", _GREEDY, str(tmp_path / "greedy.onnx")]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    first, second = ended.stdout.splitlines()
    assert first.startswith("engine greedy failed: memory ran out (")
    assert float(second) == 2 * 2**7
