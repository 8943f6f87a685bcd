"""Weights that float16 holds exactly, stored as such: a smaller bundle that computes the very same numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo
from safetensors.torch import load_file, save_file

from export.build.__main__ import main
from export.build.builder import build
from export.build.options import BuildOptions
from export.checkpoint.reader import Checkpoint
from export.onnx.engine_modules import ENGINE_NETWORKS, make_engine
from export.onnx.graph import INLINE, Graph, WeightsFile
from export.onnx.to_onnx import to_onnx
from tests.support.builds import Log
from tests.support.micro import MICRO_MODEL, MICRO_SHAPE
from vexpress_rt.backends.onnxruntime.engine import load
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import engine_specs
from vexpress_rt.errors import ConfigError

SPECS = engine_specs(MICRO_MODEL, MICRO_SHAPE)
ENGINES = ("denoiser", "denoiser_cond", "vae_decoder")
SMALL = ("audio_projection", "pose_guider")  # engines that are made in no time


def stored(values: torch.Tensor, path: Path) -> Any:
    """The compact graph, written to `path`, that takes its input times `values`."""
    graph = Graph()
    graph.inputs.append(onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, list(values.shape)))
    graph.outputs.append(onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, list(values.shape)))
    graph.rename(graph.add("Mul", ["x", graph.weight("w", lambda: values)]), "y")
    graph.write(path, None, compact=True)
    onnx.checker.check_model(path, full_check=True)
    return onnx.load(path).graph


def small(*, compact: bool) -> BuildOptions:
    return BuildOptions(MICRO_SHAPE, engines=SMALL, compact=compact)


@pytest.fixture(scope="module")
def rounded(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro checkpoint with every weight rounded to what float16 holds."""
    folder = tmp_path_factory.mktemp("rounded") / "weights"
    shutil.copytree(micro_checkpoint, folder)
    for path in folder.rglob("*.bin"):
        torch.save({name: value.half().float() for name, value in torch.load(path).items()}, path)
    for path in folder.rglob("*.safetensors"):
        save_file({name: value.half().float() for name, value in load_file(path).items()}, path)
    return folder


@pytest.fixture(scope="module")
def graphs(rounded: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Folders with the graphs of some engines of these weights, by whether they are compact."""
    checkpoint = Checkpoint(rounded)
    folders = {compact: tmp_path_factory.mktemp("graphs") for compact in (False, True)}
    shared = {compact: WeightsFile(folder / "denoiser.weights") for compact, folder in folders.items()}
    for name in ENGINES:
        engine = make_engine(SPECS[name], {n: checkpoint.network(n) for n in ENGINE_NETWORKS[name]}, torch.float32)
        for compact, folder in folders.items():
            weights = shared[compact] if name.startswith("denoiser") else None
            to_onnx(engine, folder / f"{name}.onnx", weights, compact=compact)
    return folders


def initializers(path: Path) -> list[onnx.TensorProto]:
    return list(onnx.load(path, load_external_data=False).graph.initializer)


def test_numbers_that_float16_holds_take_two_bytes_and_keep_every_bit(tmp_path: Path) -> None:
    values = torch.tensor([0.1, -0.0, 2.0**-24, 65504.0]).half().float().repeat(INLINE // 16)
    graph = stored(values, tmp_path / "graph.onnx")
    (tensor,) = graph.initializer
    assert (tensor.data_type, len(tensor.raw_data)) == (TensorProto.FLOAT16, 2 * values.numel())
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
    (found,) = session.run(None, {"x": np.ones(values.shape, np.float32)})
    assert found.tobytes() == values.numpy().tobytes()


@pytest.mark.parametrize("odd", [0.1, 65520.0, 2.0**-25, float("nan")])
def test_a_single_number_that_float16_does_not_hold_keeps_all_four_bytes(odd: float, tmp_path: Path) -> None:
    values = torch.ones(INLINE)
    values[-1] = odd
    graph = stored(values, tmp_path / "graph.onnx")
    assert [tensor.data_type for tensor in graph.initializer] == [TensorProto.FLOAT]
    assert [node.op_type for node in graph.node] == ["Mul"]


def test_a_weight_too_small_to_be_worth_a_cast_stays_as_it_is(tmp_path: Path) -> None:
    graph = stored(torch.ones(INLINE // 4 - 1), tmp_path / "graph.onnx")
    assert [tensor.data_type for tensor in graph.initializer] == [TensorProto.FLOAT]


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_gives_the_same_bits(name: str, graphs: dict[bool, Path]) -> None:
    rng, results = np.random.default_rng(0), {}
    inputs = {tensor.name: rng.standard_normal(tensor.shape, np.float32) for tensor in SPECS[name].inputs}
    for compact, folder in graphs.items():
        with load(folder / f"{name}.onnx", SPECS[name]) as engine:
            results[compact] = {key: value.tobytes() for key, value in engine.run(inputs).items()}
    assert results[True] == results[False]


def test_large_weights_take_half_the_room_inside_a_graph_and_beside_it(graphs: dict[bool, Path]) -> None:
    for file in ("denoiser.weights", "vae_decoder.onnx"):
        sizes = {compact: (folder / file).stat().st_size for compact, folder in graphs.items()}
        assert sizes[True] < 0.85 * sizes[False]  # of a model as small as this, much is too small to be worth it
    kept = {t.name: t for t in initializers(graphs[True] / "denoiser.onnx") if t.data_type == TensorProto.FLOAT}
    assert max(int(np.prod(tensor.dims)) for tensor in kept.values()) < INLINE // 4


def test_weights_that_both_denoisers_use_still_lie_in_their_file_once(graphs: dict[bool, Path]) -> None:
    both, conditional = (
        {
            tensor.name: ExternalDataInfo(tensor).offset
            for tensor in initializers(graphs[True] / f"{name}.onnx")
            if tensor.external_data and tensor.data_type == TensorProto.FLOAT16
        }
        for name in ("denoiser", "denoiser_cond")
    )
    assert len(both) > 30
    assert both == conditional


def test_onnxruntime_widens_weights_when_it_loads_them_and_not_at_every_call(
    graphs: dict[bool, Path], tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4  # it warns of the file, which is for this machine alone
    path = graphs[True] / "denoiser.onnx"
    assert sum(node.op_type == "Cast" for node in onnx.load(path, load_external_data=False).graph.node) > 30
    onnxruntime.InferenceSession(path, options)
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    assert "Cast" not in {node.op_type for node in graph.node}
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in graph.initializer}


def test_compact_engines_are_no_substitute_for_others_nor_others_for_them(rounded: Path, tmp_path: Path) -> None:
    for compact, made in ((False, list(SMALL)), (True, list(SMALL)), (True, []), (False, list(SMALL))):
        build(rounded, tmp_path / "bundle", small(compact=compact), log := Log())
        assert log.made == made


def test_command_line_asks_for_it(rounded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--height", "16", "--width", "24", "--frames", "3", "--target", "onnxruntime", "--engine", *SMALL]
    assert main(["--weights", str(rounded), "--output", str(tmp_path / "asked"), *sizes, "--compact"]) == 0
    build(rounded, tmp_path / "expected", small(compact=True))
    found, expected = (Bundle.open(tmp_path / name) for name in ("asked", "expected"))
    assert found.identity == expected.identity
    capsys.readouterr()


@pytest.mark.parametrize(
    ("precision", "target"), [("fp16", "onnxruntime"), ("fp32", "tensorrt-rtx"), ("fp16", "tensorrt")]
)
def test_other_precisions_and_targets_are_refused(precision: str, target: str) -> None:
    message = f"--compact .* {precision} and the target {target}; expected fp32 and onnxruntime or openvino"
    with pytest.raises(ConfigError, match=message):
        BuildOptions(MICRO_SHAPE, precision, target, compact=True)
