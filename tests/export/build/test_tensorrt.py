"""`python -m export.build --target tensorrt-rtx`: every engine of the tiny preset, compiled for real, without a GPU."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest

from export.build.__main__ import main
from tests.conftest import CACHE, GoldenSet
from vexpress_rt.backends.tensorrt.options import EngineOptions
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, FACE_DETECTOR

SIZES = ["--height", "64", "--width", "64", "--frames", "8", "--precision", "fp16", "--target", "tensorrt-rtx"]


def arguments(golden: GoldenSet, output: Path) -> list[str]:
    return ["--weights", str(golden.checkpoint), "--output", str(output), *SIZES]


@pytest.fixture(scope="module")
def compiled(tiny_square: GoldenSet) -> Bundle:
    """The preset `tiny` for TensorRT for RTX, reused from an earlier run if nothing changed."""
    output = CACHE / "tiny_square-fp16-tensorrt-rtx"
    assert main(arguments(tiny_square, output)) == 0
    return Bundle.open(output)


def test_every_engine_has_a_plan_that_its_hash_fits(compiled: Bundle) -> None:
    assert list(compiled.manifest.engines) == [*ENGINE_NAMES, FACE_DETECTOR]
    for name in ENGINE_NAMES:
        assert compiled.plan_path(name).stat().st_size > 100_000
    assert FACE_DETECTOR not in compiled.manifest.compiled[0].plans


def test_the_manifest_says_what_compiled_the_plans_and_for_what(compiled: Bundle) -> None:
    (made,) = compiled.manifest.compiled
    assert (made.library, made.gpu, made.capability) == ("tensorrt-rtx", "portable", "")
    assert made.version.startswith("1.")
    options = EngineOptions.from_text(made.options)
    assert options.optimization_level == 3
    assert options.ranges["N"].minimum == compiled.manifest.model.audio_minimum_samples
    data = json.loads((compiled.folder / "manifest.json").read_text())["compiled"][0]
    assert data["options_sha256"] == hashlib.sha256(made.options.encode()).hexdigest()


def test_the_graphs_stay_in_the_bundle_with_attention_as_one_operator(compiled: Bundle) -> None:
    graph = onnx.load(compiled.engine_path("denoiser"), load_external_data=False)
    assert [entry.version for entry in graph.opset_import] == [23]
    operators = {node.op_type for node in graph.graph.node}
    assert "Attention" in operators
    assert "Softmax" not in operators


def test_a_second_build_takes_the_plans_over(
    compiled: Bundle, tiny_square: GoldenSet, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: compiled.plan_path(name).stat().st_mtime_ns for name in ENGINE_NAMES}
    assert main(arguments(tiny_square, compiled.folder)) == 0
    assert "up to date" in capsys.readouterr().out
    assert {name: compiled.plan_path(name).stat().st_mtime_ns for name in ENGINE_NAMES} == before


def test_tensorrt_itself_wants_a_gpu_or_its_library(
    tiny_square: GoldenSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*arguments(tiny_square, tmp_path / "bundle")[:-1], "tensorrt"]
    assert main(command) == 1
    assert "tensorrt" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
