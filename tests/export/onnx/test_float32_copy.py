"""bfloat16: built for TensorRT alone, checked in float32 where no kernels for it are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from export.build.builder import build
from export.build.options import BuildOptions
from export.build.parity import check
from export.errors import ExportError
from export.onnx.engine_modules import ENGINE_NETWORKS, make_engine
from export.onnx.float32_copy import float32_spec, write_float32_copy
from export.onnx.to_onnx import to_onnx
from tests.support.micro import MICRO_MODEL, MICRO_SHAPE
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import engine_specs
from vexpress_rt.errors import ConfigError

ENGINES = ("vae_decoder", "reference_net", "audio_projection", "pose_guider")  # a normalisation, attention, bytes
NARROW = {"reference_net": "reference_key/", "audio_projection": "audio_tokens", "pose_guider": "pose_feature"}


@pytest.fixture(scope="module")
def bundle(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    output = tmp_path_factory.mktemp("bfloat16") / "bundle"
    build(micro_checkpoint, output, BuildOptions(MICRO_SHAPE, "bf16", "tensorrt-rtx", engines=ENGINES))
    return Bundle.open(output)


def test_onnxruntime_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"precision is bf16 with the target onnxruntime; expected fp32 or fp16 with"):
        BuildOptions(MICRO_SHAPE, "bf16", "onnxruntime")


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_compiled_and_near_its_torch_module(bundle: Bundle, name: str) -> None:
    assert bundle.plan_path(name).stat().st_size > 100_000
    parity = bundle.manifest.parity[name]
    assert isinstance(parity, float)
    assert parity < 1e-2


@pytest.mark.parametrize("name", NARROW)
def test_what_engines_hand_on_is_bfloat16(bundle: Bundle, name: str) -> None:
    handed_on = {t.name: t.dtype for t in bundle.specs[name].outputs if t.name.startswith(NARROW[name])}
    assert set(handed_on.values()) == {"bfloat16"}
    graph = onnx.load(bundle.engine_path(name), load_external_data=False).graph
    found = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    assert {found[name] for name in handed_on} == {TensorProto.BFLOAT16}


def test_weights_are_stored_in_two_bytes_and_statistics_in_four(bundle: Bundle) -> None:
    graph = onnx.load(bundle.engine_path("vae_decoder"), load_external_data=False).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {kind for name, kind in kinds.items() if "conv" in name and "norm" not in name} == {TensorProto.BFLOAT16}
    assert {kind for name, kind in kinds.items() if "norm" in name} == {TensorProto.FLOAT}


def test_a_widened_graph_computes_with_the_rounded_weights(micro_checkpoint: Path, tmp_path: Path) -> None:
    from export.checkpoint.reader import Checkpoint

    spec = engine_specs(MICRO_MODEL, MICRO_SHAPE, "bf16")["pose_guider"]
    checkpoint, names = Checkpoint(micro_checkpoint), ENGINE_NETWORKS["pose_guider"]
    rounded = {name: checkpoint.network(name, torch.bfloat16) for name in names}
    to_onnx(make_engine(spec, rounded, torch.bfloat16), tmp_path / "narrow.onnx", None, "tensorrt")
    write_float32_copy(tmp_path / "narrow.onnx", tmp_path / "wide.onnx")
    exact = make_engine(spec, {name: network.float() for name, network in rounded.items()}, torch.float32)
    result = check(lambda: exact, tmp_path / "wide.onnx", float32_spec(spec), "float32", "")
    assert result.error < 1e-6

    unrounded = {name: checkpoint.network(name) for name in names}
    other = make_engine(spec, unrounded, torch.float32)
    with pytest.raises(ExportError, match="differs from its torch module"):
        check(lambda: other, tmp_path / "wide.onnx", float32_spec(spec), "float32", "")


def test_bfloat16_numbers_keep_their_bits_in_a_graph(tmp_path: Path) -> None:
    from export.onnx.graph import Graph

    graph, values = Graph(opset=23), torch.tensor([0.1, -3.0, 1e30], dtype=torch.bfloat16)
    graph.weight("numbers", lambda: values)
    graph.write(tmp_path / "graph.onnx", None)
    (tensor,) = onnx.load(tmp_path / "graph.onnx").graph.initializer
    assert tensor.data_type == TensorProto.BFLOAT16
    assert np.frombuffer(tensor.raw_data, np.int16).tolist() == values.view(torch.int16).tolist()
