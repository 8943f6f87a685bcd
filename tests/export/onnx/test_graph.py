"""ONNX files: where weights go, what graphs share, and that every engine's file is what `specs.py` says."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.external_data_helper import ExternalDataInfo
from torch import nn

from export.errors import CheckpointError
from export.onnx import to_onnx as to_onnx_module
from export.onnx.engine_modules import ENGINE_CLASSES, ENGINE_NETWORKS, Engine, make_engine
from export.onnx.graph import INLINE, LARGE, LINE, PAGE, Graph, WeightsFile, read_interface
from export.onnx.to_onnx import to_onnx
from tests.support.lowered import run_file
from tests.support.micro import MICRO_MODEL, MICRO_SHAPE
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, KNOWN_ENGINES, engine_specs

SPECS = engine_specs(MICRO_MODEL, MICRO_SHAPE)


def load(path: Path) -> Any:
    onnx.checker.check_model(path, full_check=True)
    return onnx.load(path, load_external_data=False).graph


def places(graph: Any) -> dict[str, tuple[int, int]]:
    """Offset and length of every tensor that lies in the weights file."""
    infos = {t.name: ExternalDataInfo(t) for t in graph.initializer if t.external_data}
    return {name: (info.offset, info.length) for name, info in infos.items()}


def pose_guider(side: int = 3) -> Engine:
    """An engine with real names, and weights of side x side kernels."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 8, side, padding=side // 2))
    return make_engine(SPECS["pose_guider"], {"v_kps_guider": layers}, torch.float32)


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_inputs_and_outputs_are_those_of_the_specification_in_order(name: str, micro_bundle: Path) -> None:
    inputs, outputs = read_interface(micro_bundle / f"{name}.onnx")
    for found, expected in ((inputs, SPECS[name].inputs), (outputs, SPECS[name].outputs)):
        assert [(t.name, t.shape, t.dtype) for t in found] == [(t.name, t.shape, t.dtype) for t in expected]


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_a_graph_holds_nothing_that_no_output_needs(name: str, micro_bundle: Path) -> None:
    graph = load(micro_bundle / f"{name}.onnx")
    needed = {output.name for output in graph.output}
    for node in reversed(graph.node):
        assert needed & set(node.output), f"{node.name} computes what nobody needs"
        needed |= set(node.input)
    assert {tensor.name for tensor in graph.initializer} <= needed
    assert {value.name for value in graph.input} <= needed


def test_every_engine_has_a_wrapper_and_networks() -> None:
    assert list(ENGINE_CLASSES) == list(ENGINE_NETWORKS) == list(KNOWN_ENGINES)


def test_both_denoisers_read_the_same_bytes_and_the_file_has_no_others(micro_bundle: Path) -> None:
    both, conditional = (places(load(micro_bundle / f"{name}.onnx")) for name in ("denoiser", "denoiser_cond"))
    matrices = [name for name in conditional if name.endswith(".weight.T")]
    assert len(matrices) > 50
    assert all(both[name] == conditional[name] for name in matrices)
    end = 0
    for offset, length in sorted({*both.values(), *conditional.values()}):
        assert 0 <= offset - end < PAGE
        assert offset % (PAGE if length >= LARGE else LINE) == 0
        end = offset + length
    assert end == (micro_bundle / "denoiser.weights").stat().st_size


def test_equal_bytes_are_stored_once(tmp_path: Path) -> None:
    file = WeightsFile(tmp_path / "w")
    first, other = file.place(b"a" * 5000), file.place(b"b" * 100)
    assert file.place(b"a" * 5000) == first == (0, 5000)
    assert other == (5056, 100)
    assert file.place(b"c" * LARGE) == (8192, LARGE)
    content = (tmp_path / "w").read_bytes()
    assert len(content) == 8192 + LARGE
    assert content[5056:5156] == b"b" * 100


def test_a_weights_file_never_writes_into_one_that_exists(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"another bundle's")
    with pytest.raises(FileExistsError):
        WeightsFile(tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == b"another bundle's"


def test_what_was_placed_for_a_trial_is_taken_out_again(tmp_path: Path) -> None:
    file = WeightsFile(tmp_path / "w")
    kept = file.place(b"a" * 5000)
    with file.scratch():
        assert file.place(b"a" * 5000) == kept
        trial = file.place(b"b" * 5000)
    assert (tmp_path / "w").read_bytes() == b"a" * 5000
    assert file.place(b"c" * 5000) == trial
    assert file.place(b"b" * 5000) > trial


def test_weights_above_the_limit_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawings = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    assert to_onnx(pose_guider(), tmp_path / "inside.onnx") is None
    monkeypatch.setattr(to_onnx_module, "EXTERNAL_ABOVE", 1000)
    weights = to_onnx(pose_guider(), tmp_path / "beside.onnx")
    assert weights is not None
    assert weights.path == tmp_path / "beside.weights"
    sizes = {name: length for name, (_, length) in places(load(tmp_path / "beside.onnx")).items()}
    assert sizes == {"v_kps_guider.0.weight": 8 * 3 * 16 * 4, "v_kps_guider.1.weight": 8 * 8 * 9 * 4}
    assert min(sizes.values()) >= INLINE
    inside, beside = (run_file(tmp_path / f"{name}.onnx", drawings) for name in ("inside", "beside"))
    np.testing.assert_array_equal(inside[0], beside[0])


def test_the_weights_are_out_of_memory_as_soon_as_the_engine_is(tmp_path: Path) -> None:
    """At full size they are several GB; nothing may wait for Python's search for circles."""
    to_onnx(pose_guider(), tmp_path / "first.onnx")  # what torch imports at its first call keeps that call's frames
    engine = pose_guider()
    weight = weakref.ref(engine.get_parameter("v_kps_guider.1.weight"))
    gc.disable()
    try:
        to_onnx(engine, tmp_path / "graph.onnx")
        del engine
        assert weight() is None
    finally:
        gc.enable()


def test_equal_constants_are_one_initializer() -> None:
    graph = Graph()
    assert graph.ints(1, 2) == graph.ints(1, 2) != graph.ints(2, 1)
    assert graph.constant(torch.ones(1)) != graph.constant(torch.ones(1).half())
    assert graph.constant(torch.zeros(2)) != graph.constant(torch.zeros(1, dtype=torch.int64)), (
        "equal bytes, other values"
    )
    assert len(graph.initializers) == 6


def test_the_same_engine_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        to_onnx(pose_guider(), tmp_path / name / "graph.onnx")
    assert (tmp_path / "a" / "graph.onnx").read_bytes() == (tmp_path / "b" / "graph.onnx").read_bytes()


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08"])
def test_a_file_that_is_no_onnx_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "det_10g.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"det_10g\.onnx .*: fetch it again"):
        read_interface(tmp_path / "det_10g.onnx")


def test_a_dynamic_size_keeps_its_letter(micro_bundle: Path) -> None:
    (samples,), (features,) = read_interface(micro_bundle / "audio_encoder.onnx")
    assert samples.describe() == "samples: float32 (1, N)"
    assert features.describe() == "features: float32 (1, T, 16)"
