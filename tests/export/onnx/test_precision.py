"""float16: near float32 on the goldens, and finite where float16 arithmetic alone is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch.nn.functional import scaled_dot_product_attention

from export.networks.layers import Attention, GroupNorm, LayerNorm
from export.onnx.lower import LARGEST_HEAD
from tests.conftest import GoldenSet, half_bundle, half_bundle_as_for_tensorrt
from tests.support.lowered import Module, normal, run_file, tensor_specs, traced, write
from vexpress_rt import GenerationConfig, Generator
from vexpress_rt.stages import frame_decoder

LATENTS, FRAMES = 1e-2, 40.0  # relative error; dB


@pytest.fixture
def latents(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The latents that are decoded while the test runs."""
    seen: list[np.ndarray] = []
    decode = frame_decoder.decode

    def listen(engine: Any, items: Iterable[tuple[int, np.ndarray]], **options: bool) -> Iterator[np.ndarray]:
        def watched() -> Iterator[tuple[int, np.ndarray]]:
            for frame, latent in items:
                seen.append(latent)
                yield frame, latent

        return decode(engine, watched(), **options)

    monkeypatch.setattr(frame_decoder, "decode", listen)
    return seen


@pytest.mark.parametrize("make_bundle", [half_bundle, half_bundle_as_for_tensorrt], ids=["onnxruntime", "tensorrt"])
def test_a_video_in_half_precision_is_that_of_the_golden(
    golden: GoldenSet, latents: list[np.ndarray], make_bundle: Callable[[GoldenSet], Path]
) -> None:
    with Generator(make_bundle(golden), provider="cpu") as made:
        video = made.generate(
            golden["image"], (golden["waveform"], 16000), keypoints=golden["keypoints"],
            config=GenerationConfig(**golden.options()), noise=golden["noise"],
        )  # fmt: skip
    expected = golden["latents_after_step"][-1][0].swapaxes(0, 1)
    assert np.abs(np.concatenate(latents) - expected).max() / np.abs(expected).max() < LATENTS
    assert video.frames is not None
    squares = (video.frames.astype(float) - golden["frames_median_uint8"].astype(float)) ** 2
    assert 10 * np.log10(255**2 / squares.mean()) > FRAMES


def naive(
    path: Path, nodes: list[tuple[str, list[str], str]], constants: dict[str, Any], *shapes: tuple[int, ...]
) -> Path:
    """A graph whose every value is float16, of (operator, inputs, output); its last output is the graph's."""
    values = [helper.make_tensor_value_info(f"in{i}", TensorProto.FLOAT16, s) for i, s in enumerate(shapes)]
    result = helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT16, None)
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    body = [helper.make_node(op, inputs, [output]) for op, inputs, output in nodes]
    graph = helper.make_graph(body, "naive", values, [result], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def run_naive(path: Path, *arrays: np.ndarray) -> np.ndarray:
    """The graph as written: the optimiser would take casts to float16 away between ONNX Runtime's float32 kernels."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {f"in{i}": array for i, array in enumerate(arrays)})[0]
    return found


def lowered(module: torch.nn.Module, like: np.ndarray, path: Path, target: str, *arrays: np.ndarray) -> np.ndarray:
    write(traced(module, *arrays), tensor_specs([*arrays], "in"), tensor_specs([like], "out"), path, target)
    return run_file(path, *arrays)[0]


@pytest.fixture(params=["onnxruntime", "tensorrt"])
def target(request: pytest.FixtureRequest) -> str:
    """Decides how a graph is written."""
    return str(request.param)


@pytest.mark.parametrize("layer", [GroupNorm(4, 8), LayerNorm(16)], ids=["group", "layer"])
def test_a_normalisation_stays_finite_where_squares_in_half_precision_do_not(
    layer: Any, target: str, tmp_path: Path
) -> None:
    x = (normal(1, 8, 16, 16) * 2000).astype(np.float16)
    axes = {"axes": np.array([1, 2, 3])}
    squares = [("ReduceMean", ["in0", "axes"], "mean"), ("Sub", ["in0", "mean"], "d"), ("Mul", ["d", "d"], "square")]
    assert np.isinf(run_naive(naive(tmp_path / "naive.onnx", squares, axes, x.shape), x)).any()
    found = lowered(layer, x, tmp_path / "ours.onnx", target, x)
    expected = layer(torch.from_numpy(x.astype(np.float32))).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=5e-3)


@pytest.mark.parametrize("head", [64, LARGEST_HEAD + 64])
def test_attention_stays_finite_where_products_in_half_precision_do_not(head: int, target: str, tmp_path: Path) -> None:
    q, k, v = ((normal(1, 2, 32, head, seed=i) * 120).astype(np.float16) for i in range(3))
    products = [("Transpose", ["in1"], "t"), ("MatMul", ["in0", "t"], "scores")]
    graph = naive(tmp_path / "naive.onnx", products, {}, q.shape, k.shape)
    model = onnx.load(graph)
    model.graph.node[0].attribute.append(helper.make_attribute("perm", [0, 1, 3, 2]))
    onnx.save(model, graph)
    assert np.isinf(run_naive(graph, q, k)).any()
    found = lowered(Module(scaled_dot_product_attention), q, tmp_path / "ours.onnx", target, q, k, v)
    exact = scaled_dot_product_attention(*(torch.from_numpy(a.astype(np.float32)) for a in (q, k, v))).numpy()
    np.testing.assert_allclose(found, exact, atol=2e-2 * np.abs(exact).max())


def test_norms_and_timesteps_keep_float32_weights_in_a_half_precision_network() -> None:
    from export.networks.layers import Resnet, TimestepEmbedding, to_precision

    network = torch.nn.ModuleList([Resnet(8, 8, 4, 1e-5, 32), TimestepEmbedding(8), Attention(8, 8, 2), LayerNorm(8)])
    half = {name for name, p in to_precision(network, torch.float16).named_parameters() if p.dtype == torch.float16}
    assert half == {
        name for name, _ in network.named_parameters() if not ("norm" in name or name.startswith(("1.", "3.")))
    }
