"""Forms for ONNX Runtime's CPU kernels give the results of PyTorch and of the standard operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from export.networks.layers import to_precision
from export.networks.registry import NETWORKS
from export.onnx import lower_fused
from export.onnx.engine_modules import ENGINE_NETWORKS, TORCH_DTYPES, make_engine
from export.onnx.graph import ORT_DOMAIN, WeightsFile
from export.onnx.to_onnx import to_onnx
from tests.support.fused import COMPOSITES
from tests.support.lowered import Module, compare, normal
from tests.support.micro import MICRO, MICRO_SHAPE
from vexpress_rt.bundle.engine_spec import PRECISIONS, engine_specs

CASES = [(name, *case) for name, cases in COMPOSITES.items() for case in cases]


@pytest.mark.parametrize("target", [None, *lower_fused.TARGET_FORMS])
@pytest.mark.parametrize(("name", "function", "inputs", "parameters"), CASES)
def test_a_composite_gives_what_torch_gives(
    name: str, function: Callable[..., Any], inputs: list[tuple[int, ...]], parameters: list[tuple[int, ...]],
    target: str | None,
) -> None:  # fmt: skip
    forms, arrays = lower_fused.TARGET_FORMS.get(target or "", ()), [normal(*shape) for shape in inputs]
    compare(Module(function, *parameters), *arrays, forms=forms, target=target or "onnxruntime")


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.conv2d(x, weight, bias, padding=1)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_a_small_map_is_convolved_by_products(
    rows: int, columns: int, inputs: int, outputs: int, pictures: int
) -> None:
    module = Module(lambda x, w, b: convolve(x, w / 3 / inputs**0.5, b), (outputs, inputs, 3, 3), (outputs,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lower_fused, "WIDE", 1)
        operators = compare(module, normal(pictures, inputs, 2 * rows, 2 * columns), forms=lower_fused.FORMS)
    assert "Conv" not in operators


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (convolve, (1, 256, 7, 8)),
        (convolve, (2, 256, 16, 8)),
        (convolve, (1, 256, 66, 64)),
        (lambda x, w, b: functional.conv2d(x, w, b, padding=1, stride=2), (1, 256, 8, 8)),
        (lambda x, w, b: functional.conv2d(x, w, b), (1, 256, 8, 8)),
    ],
)
def test_other_convolutions_stay_as_they_are(function: Callable[..., Any], shape: tuple[int, ...]) -> None:
    module = Module(lambda x, w, b: function(x, w / 48, b), (256, 256, 3, 3), (256,))
    assert compare(module, normal(*shape), forms=lower_fused.FORMS).count("Conv") == 1


def test_narrow_layers_keep_their_convolutions() -> None:
    module = Module(convolve, (lower_fused.WIDE - 1, 3, 3, 3), (lower_fused.WIDE - 1,))
    assert compare(module, normal(1, 3, 4, 4), forms=lower_fused.FORMS) == ["Conv"]


def test_what_runs_once_a_photo_keeps_its_convolutions_and_their_size() -> None:
    assert lower_fused.SMALL_CONVOLUTION in lower_fused.forms_of("denoiser")
    assert set(lower_fused.FORMS) - set(lower_fused.forms_of("reference_net")) == {lower_fused.SMALL_CONVOLUTION}


@pytest.mark.parametrize(
    ("target", "precision", "expected"),
    [
        ("onnxruntime", "fp32", True),
        ("onnxruntime", "fp16", False),
        ("openvino", "fp32", False),
        ("tensorrt", "fp32", False),
    ],
)
def test_only_float32_graphs_for_onnxruntime_have_its_own_operators(
    target: str, precision: str, expected: bool, tmp_path: Path
) -> None:
    spec = engine_specs(MICRO.model_config(), MICRO_SHAPE, precision)["denoiser"]
    activation = TORCH_DTYPES[PRECISIONS[precision]]
    networks = {"denoising_unet": to_precision(NETWORKS["denoising_unet"](MICRO), activation)}
    to_onnx(make_engine(spec, networks, activation), tmp_path / "graph.onnx", target=target)
    model = onnx.load(tmp_path / "graph.onnx")
    assert any(node.domain == ORT_DOMAIN for node in model.graph.node) == expected
    assert (ORT_DOMAIN in {opset.domain for opset in model.opset_import}) == expected


def test_graphs_for_openvino_split_gates_and_upsample_by_small_convolutions(tmp_path: Path) -> None:
    networks = {"denoising_unet": NETWORKS["denoising_unet"](MICRO)}
    spec = engine_specs(MICRO.model_config(), MICRO_SHAPE, sines_as_input=True)["denoiser"]
    operators = {}
    for label, forms in (("default", None), ("plain", ())):
        path = tmp_path / f"{label}.onnx"
        to_onnx(make_engine(spec, networks, torch.float32), path, target="openvino", forms=forms)
        operators[label] = [node.op_type for node in onnx.load(path).graph.node]
    assert {"Split", "Resize"} <= set(operators["plain"])
    assert not {"Split", "Resize"} & set(operators["default"])
    assert operators["default"].count("DepthToSpace") == operators["plain"].count("Resize")


def test_a_weight_is_stored_once_in_the_form_that_is_run(tmp_path: Path) -> None:
    spec = engine_specs(MICRO.model_config(), MICRO_SHAPE)["denoiser"]
    network = NETWORKS["denoising_unet"](MICRO)
    engine = make_engine(spec, {"denoising_unet": network}, torch.float32)
    to_onnx(engine, tmp_path / "graph.onnx")
    graph = onnx.load(tmp_path / "graph.onnx").graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    weight = "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight"
    halves = [stored[f"denoising_unet.{weight}.{half}.T"] for half in ("value", "gate")]
    assert np.array_equal(np.concatenate(halves, axis=1).T, network.get_parameter(weight).detach().numpy())
    assert not {f"denoising_unet.{weight}", f"denoising_unet.{weight}.T"} & stored.keys()


@pytest.mark.parametrize("name", ["denoiser", "reference_net", "vae_decoder", "audio_projection"])
def test_every_weight_that_is_stored_is_used(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower_fused, "WIDE", 1)
    networks = {network: NETWORKS[network](MICRO) for network in ENGINE_NETWORKS[name]}
    engine = make_engine(engine_specs(MICRO.model_config(), MICRO_SHAPE)[name], networks, torch.float32)
    to_onnx(engine, tmp_path / "graph.onnx")
    graph = onnx.load(tmp_path / "graph.onnx").graph
    assert {t.name for t in graph.initializer} <= {name for node in graph.node for name in node.input}


def test_two_graphs_share_the_weights_of_their_forms(tmp_path: Path) -> None:
    specs, networks = (
        engine_specs(MICRO.model_config(), MICRO_SHAPE),
        {"denoising_unet": NETWORKS["denoising_unet"](MICRO)},
    )
    weights, sizes = WeightsFile(tmp_path / "denoiser.weights"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lower_fused, "WIDE", 1)
        for name in ("denoiser", "denoiser_cond"):
            engine = make_engine(specs[name], networks, torch.float32)
            to_onnx(engine, tmp_path / f"{name}.onnx", weights)
            sizes.append((tmp_path / "denoiser.weights").stat().st_size)
    assert any(
        ".weight.15" in node.input[1]
        for node in onnx.load(tmp_path / "denoiser.onnx").graph.node
        if len(node.input) > 1
    )
    assert sizes[1] - sizes[0] < 0.01 * sizes[0]
