"""What each way of making the CPU faster is worth: all of them can be left out, and none changes results."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.cpu import changes
from benchmarks.cpu.changes import CHANGES, Change, measure, shares
from benchmarks.cpu.graphs import Graphs
from export import lower_fused
from export.lower_fused import FORMS
from tests.micro import MICRO, MICRO_SHAPE

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    return Graphs(MICRO, MICRO_SHAPE, tmp_path_factory.mktemp("graphs"), 1)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every convolution counts as wide."""
    monkeypatch.setattr(lower_fused, "WIDE", 1)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_is_measured_and_gives_the_same(change: Change, graphs: Graphs) -> None:
    figures = measure(change, graphs, loads=1)
    assert figures["ratio"]["count"] == changes.TURNS
    assert figures["ours"]["median"] > 0
    assert (figures["error"] is None) == (change.name == "algebra")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_is_left_out_is_not_in_the_graph(form: str, tmp_path: Path) -> None:
    graphs = Graphs(MICRO, MICRO_SHAPE, tmp_path, 1)
    graphs.call("denoiser")
    graphs.call("denoiser", leave_out=[form])
    whole, without = (
        Counter(node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node)
        for name in ("denoiser", f"denoiser-{form}")
    )
    assert whole != without


def test_a_change_of_results_is_an_error(graphs: Graphs) -> None:
    def make(graphs: Graphs) -> changes.Pair:
        call = graphs.call("denoiser")
        return changes.Pair(call, lambda: [array * np.float32(1.001) for array in call()])

    with pytest.raises(ArithmeticError, match=r"wrong changes results by 1\.\de-03 of the largest; at most 2e-05"):
        measure(Change("wrong", "", make), graphs, loads=1)


def test_the_profile_says_where_all_of_the_time_goes(graphs: Graphs) -> None:
    found = shares(graphs.profile("denoiser", 2), MICRO.unet, MICRO_SHAPE.frames)
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert {"products", "convolutions", "attention", "time embeddings", "the voice's keys and values"} <= found.keys()


_FAULTS = """
import resource, sys
import numpy as np
from benchmarks.cpu.allocator import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
def work():
    for _ in range(20):
        np.ones(5_000_000, np.float32)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told")
def test_memory_that_is_kept_is_not_faulted_in_again() -> None:
    line = [sys.executable, "-c", _FAULTS, "keep"]
    answer = subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert int(answer.stdout) < 500
