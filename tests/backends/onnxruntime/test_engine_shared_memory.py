"""Engines on the CPU that share memory: common weights, and one arena to compute in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from vexpress_rt.backends.onnxruntime.engine import cpu_options, load

_TWO_LOADED = """
import sys
from vexpress_rt.backends.onnxruntime.engine import load
def private():
    text = open("/proc/self/smaps_rollup").read()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Anonymous:")) * 1024
load(sys.argv[1], None)  # memory that the library needs for any engine
before = private()
kept = [load(path, None, share_weights=sys.argv[3] == "shared") for path in (sys.argv[1], sys.argv[2])]
print(private() - before)
"""
SIDE = 2048  # of a matrix of 16 MiB


def _product(folder: Path, name: str) -> Path:
    """y = x w, w in the file `w` beside it."""
    weights = folder / "w"
    if not weights.exists():
        weights.write_bytes(np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32).tobytes())
    stored = onnx.TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[SIDE, SIDE], data_location=onnx.TensorProto.EXTERNAL
    )
    stored.external_data.add(key="location", value="w")
    x, y = (helper.make_tensor_value_info(side, TensorProto.FLOAT, [3, SIDE]) for side in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [x], [y], [stored])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / name)
    return folder / name


@pytest.mark.parametrize(("how", "copies"), [("shared", 0), ("packed", 2)])
def test_graphs_that_share_weights_have_no_copies_of_them(tmp_path: Path, how: str, copies: int) -> None:
    paths = [str(_product(tmp_path, name)) for name in ("one.onnx", "other.onnx")]
    answer = subprocess.run(
        [sys.executable, "-c", _TWO_LOADED, *paths, how], capture_output=True, text=True, check=True
    )
    assert int(answer.stdout) / (SIDE * SIDE * 4) == pytest.approx(copies, abs=0.4)


def test_shared_weights_give_the_same_results(tmp_path: Path) -> None:
    path, x = _product(tmp_path, "product.onnx"), np.random.default_rng(1).standard_normal((3, SIDE), np.float32)
    packed, shared = (load(path, None, share_weights=share).run({"x": x})["y"] for share in (False, True))
    np.testing.assert_allclose(shared, packed, rtol=0, atol=1e-4 * np.abs(packed).max())


_TWO_RUN = """
import sys, numpy as np
from vexpress_rt.backends.onnxruntime.engine import load
def resident():
    text = open("/proc/self/status").read()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")) * 1024
x = np.ones((2048, 2048), np.float32)  # 16 MiB, as is each result
engines = [load(path, None) for path in sys.argv[1:]]
sizes = []
for engine in engines:
    engine.run({"x": x})
    sizes.append(resident())
print(sizes[1] - sizes[0])
"""


def test_engines_compute_in_the_same_memory(tmp_path: Path) -> None:
    paths = []
    for name in ("one.onnx", "other.onnx"):
        chain = [helper.make_node("Exp", ["x"], ["a"]), helper.make_node("Softmax", ["a"], ["b"])]
        chain += [helper.make_node("MatMul", ["b", "b"], ["c"]), helper.make_node("ReduceMax", ["c"], ["y"])]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2048, 2048])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])
        graph = helper.make_graph(chain, "chain", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, tmp_path / name)
        paths.append(str(tmp_path / name))
    answer = subprocess.run([sys.executable, "-c", _TWO_RUN, *paths], capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 8 << 20  # of the 32 MiB that the second would take on its own


@pytest.mark.parametrize("share", [False, True])
def test_threads_sleep_while_they_wait_and_weights_are_packed_unless_they_are_shared(share: bool) -> None:
    told = cpu_options(onnxruntime, 2, share_weights=share).get_session_config_entry
    assert told("session.intra_op.allow_spinning") == "0"
    assert told("session.use_env_allocators") == "1"
    if share:
        assert told("session.disable_prepacking") == "1"
    else:
        with pytest.raises(RuntimeError, match="disable_prepacking"):
            told("session.disable_prepacking")
