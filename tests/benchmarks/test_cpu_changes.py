"""The measurement of CPU optimisations: each can be left out, and none changes results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.cpu import changes, loading
from benchmarks.cpu.changes import CHANGES, Change, measure, shares
from benchmarks.cpu.graphs import Graphs
from benchmarks.page.tables import changes_table
from export.onnx import lower_fused
from export.onnx.lower_fused import FORMS
from tests.support.micro import MICRO, MICRO_SHAPE
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    return Graphs(MICRO, MICRO_SHAPE, tmp_path_factory.mktemp("graphs"), 1)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every convolution as wide."""
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

    with pytest.raises(
        ArithmeticError, match=r"wrong changes results by 1\.\de-03 of the largest value; expected at most 2e-05"
    ):
        measure(Change("wrong", "", make), graphs, loads=1)


def test_the_profile_says_where_all_of_the_time_goes(graphs: Graphs) -> None:
    found = shares(graphs.profile("denoiser", 2), MICRO.unet, MICRO_SHAPE.frames)
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert {
        "products",
        "convolutions",
        "attention",
        "time embeddings",
        "keys and values of the audio tokens",
    } <= found.keys()


_FAULTS = """
import resource, sys
import numpy as np
from benchmarks.cpu.allocator import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
def work():
    return [np.ones(5_000_000, np.float32) for _ in range(5)]  # 100 MB, all of it freed at once
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_that_is_kept_is_not_faulted_in_again() -> None:
    def faults(how: str) -> int:
        line = [sys.executable, "-c", _FAULTS, how]
        answer = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
        return int(answer.stdout)

    assert faults("keep") < 100
    assert faults("give back") > 1000


def test_the_command_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MODELS", {"half": MICRO})
    monkeypatch.setattr(changes, "SHAPE", MICRO_SHAPE)
    flags = ["--threads", "1", "--loads", "1", "--only", "attention", "Winograd, denoiser", "--json"]
    changes.main([*flags, str(tmp_path / "changes.json")])
    found = json.loads((tmp_path / "changes.json").read_text())
    assert [row["what"] for row in found["rows"]] == ["attention"]  # MICRO has no wide convolutions
    assert changes_table({"changes": {"status": "ok", "figures": found}})[0].startswith("| optimisation |")


def test_loading_is_measured_both_ways(micro_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "loading.json"
    assert loading.main(["--bundle", str(micro_bundle), "--threads", "1", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [(row["what"], row["weights"]) for row in rows] == [
        (name, way) for way in ("packed", "shared") for name in ("denoiser", "denoiser_cond")
    ]
    assert all(row["loading"] > 0 and row["call"] > 0 and row["mebibytes"] > 0 for row in rows)
