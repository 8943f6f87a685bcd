"""Engines built by the real TensorRT for RTX, which needs no GPU for builds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.support.onnx_graphs import (
    BF16,
    FLOAT,
    HALF,
    UINT8,
    node,
    save,
    save_attention,
    save_open,
    save_relu,
    save_wide_attention,
    weight,
)
from vexpress_rt.backends.tensorrt import builder as tensorrt_builder
from vexpress_rt.backends.tensorrt.builder import build_engine
from vexpress_rt.backends.tensorrt.library import Library, load
from vexpress_rt.backends.tensorrt.options import EngineOptions, Range
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec
from vexpress_rt.errors import BackendError, BundleDamagedError, ConfigError


@pytest.fixture(scope="module")
def library() -> Library:
    return load("tensorrt-rtx")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    folder = tmp_path / "graphs"
    folder.mkdir()
    return folder / "graph.onnx"


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "engines"
    folder.mkdir()
    path = folder / "graph.engine"
    yield path
    assert {item.name for item in folder.iterdir()} <= {path.name}  # no partial file is left


@pytest.mark.parametrize(("element", "channels"), [(HALF, 64), (HALF, 12), (FLOAT, 32)])
def test_convolution_and_attention_are_built(
    graph: Path, output: Path, library: Library, element: int, channels: int
) -> None:
    info = build_engine(graph, save_attention(graph, element, channels), output, library)
    assert info.bytes == output.stat().st_size > 0
    assert info.seconds > 0
    assert info.activation_bytes is not None
    assert info.activation_bytes > 0


def test_attention_without_a_kernel_of_its_own_is_built_from_several(
    graph: Path, output: Path, library: Library
) -> None:
    assert build_engine(graph, save_wide_attention(graph), output, library).bytes > 0


def forbid_several_kernels(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention may not be built from them any more."""
    with library.polygraphy() as polygraphy:
        monkeypatch.setattr(polygraphy, "set_decomposable_attentions", lambda network: network)


def test_what_cannot_be_built_is_an_error_with_tensorrts_reason(
    graph: Path, output: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_several_kernels(library, monkeypatch)
    with pytest.raises(BackendError, match=r"cannot build engine graph: .*not supported by a dedicated kernel.*update"):
        build_engine(graph, save_wide_attention(graph), output, library)


def test_leave_to_use_several_kernels_changes_nothing_where_one_will_do(
    graph: Path, output: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = save_attention(graph, HALF, 64)
    build_engine(graph, spec, output, library)
    allowed = output.read_bytes()
    forbid_several_kernels(library, monkeypatch)
    build_engine(graph, spec, output, library)
    assert output.read_bytes() == allowed


def test_the_same_graph_gives_the_same_engine_in_the_place_of_the_old_one(
    graph: Path, output: Path, library: Library
) -> None:
    spec = save_attention(graph, HALF, 64)
    build_engine(graph, spec, output, library)
    first = output.read_bytes()
    output.write_bytes(b"old")
    build_engine(graph, spec, output, library)
    assert output.read_bytes() == first


def test_bytes_go_in_and_out_where_they_are_cast_at_the_ends(graph: Path, output: Path, library: Library) -> None:
    nodes = [
        node("Cast", "image", "f", to=FLOAT),
        node("Transpose", "f", "t", perm=[2, 0, 1]),
        node("Cast", "t", "frame", to=UINT8),
    ]
    spec = save(graph, nodes, [("image", UINT8, [4, 5, 3])], [("frame", UINT8, [3, 4, 5])])
    assert build_engine(graph, spec, output, library).bytes > 0


def test_bytes_that_anything_but_a_cast_takes_are_refused_by_node(graph: Path, output: Path, library: Library) -> None:
    nodes = [node("Transpose", "image", "t", "permute", perm=[2, 0, 1]), node("Cast", "t", "y", to=FLOAT)]
    spec = save(graph, nodes, [("image", UINT8, [4, 5, 3])], [("y", FLOAT, [3, 4, 5])])
    with pytest.raises(BackendError, match=r"node permute \(Transpose\): .*has type UInt8 but must have type"):
        build_engine(graph, spec, output, library)


def test_bfloat16_is_built(graph: Path, output: Path, library: Library) -> None:
    spec = save(graph, [node("Relu", "x", "y")], [("x", BF16, [2, 3])], [("y", BF16, [2, 3])])
    assert spec.inputs[0].dtype == "bfloat16"
    assert build_engine(graph, spec, output, library).bytes > 0


def test_an_open_dim_takes_memory_for_its_largest_size(graph: Path, output: Path, library: Library) -> None:
    spec = save_open(graph, "N")
    sizes = {}
    for maximum in (1 << 16, 1 << 22):
        options = EngineOptions(ranges={"N": Range(400, 1 << 14, maximum)})
        sizes[maximum] = build_engine(graph, spec, output, library, options).activation_bytes
    assert sizes[1 << 22] > sizes[1 << 16]


def test_an_open_dim_without_sizes_is_refused(graph: Path, output: Path, library: Library) -> None:
    with pytest.raises(ConfigError, match=r"samples: float32 \(1, M\) leaves M open; .* ranges, which has N"):
        build_engine(graph, save_open(graph, "M"), output, library)


def test_weights_may_lie_in_a_file_beside_the_graph(graph: Path, output: Path, library: Library) -> None:
    values = [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3000])]
    spec = save(graph, [node("MatMul", "x w", "y")], *values, [weight("w", 3, 3000)], external="graph.weights")
    assert graph.with_name("graph.weights").stat().st_size >= 36000
    assert build_engine(graph, spec, output, library).bytes > 36000


def test_missing_weights_are_an_error_that_names_them(graph: Path, output: Path, library: Library) -> None:
    values = [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 300])]
    spec = save(graph, [node("MatMul", "x w", "y")], *values, [weight("w", 3, 300)], external="graph.weights")
    graph.with_name("graph.weights").unlink()
    with pytest.raises(BackendError, match=r"cannot read engine graph from .*Failed to import initializer: w"):
        build_engine(graph, spec, output, library)


def test_an_unknown_operator_is_shown_with_its_node(graph: Path, output: Path, library: Library) -> None:
    nodes = [node("Relu", "x", "r", "first"), node("Frobnicate", "r", "y", "second")]
    spec = save(graph, nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])])
    with pytest.raises(BackendError, match=r"TensorRT for RTX .* node second \(Frobnicate\): .*Plugin not found"):
        build_engine(graph, spec, output, library)


def test_every_complaint_is_shown(graph: Path, output: Path, library: Library) -> None:
    string = onnx.TensorProto.STRING
    proto = onnx.helper.make_graph(
        [node("StringNormalizer", "x", "y", "normalise")], "strings",
        [onnx.helper.make_tensor_value_info("x", string, [3])], [onnx.helper.make_tensor_value_info("y", string, [3])],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(proto, ir_version=10), str(graph))
    with pytest.raises(BackendError, match=r"convert ONNX dat.*; node normalise \(StringNormalizer\): "):
        build_engine(graph, EngineSpec("graph", (), ()), output, library)


def test_mixed_precisions_are_refused_for_the_graph_decides(
    graph: Path, output: Path, library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = [("x", FLOAT, [2, 3]), ("h", HALF, [2, 3])]
    spec = save(graph, [node("Add", "x h", "y", "mix")], inputs, [("y", FLOAT, [2, 3])])
    with pytest.raises(BackendError, match=r"node mix \(Add\): .*types Float and Half") as caught:
        build_engine(graph, spec, output, library)
    assert "CUDA" not in str(caught.value)
    assert any("first input has type Float but second input has type Half" in text for text in caplog.messages)


def test_a_graph_that_was_cut_short_is_refused(graph: Path, output: Path, library: Library) -> None:
    spec = save_relu(graph)
    graph.write_bytes(graph.read_bytes()[:-5])
    with pytest.raises(BackendError, match=r"cannot read engine graph from .*graph\.onnx: .*: export the graph again"):
        build_engine(graph, spec, output, library)


def test_a_missing_graph_is_an_error(graph: Path, output: Path, library: Library) -> None:
    with pytest.raises(BundleDamagedError, match=r"graph\.onnx, the graph of engine e, is missing"):
        build_engine(graph, EngineSpec("e", (), ()), output, library)


def test_every_tensor_that_is_not_as_specified_is_named(graph: Path, output: Path, library: Library) -> None:
    save_relu(graph)
    wanted = EngineSpec(
        "graph",
        (TensorSpec("x", ("F", "D"), (2, 4), "float32"), TensorSpec("z", ("1",), (1,), "float32")),
        (TensorSpec("y", ("2", "3"), (2, 3), "float16"),),
    )
    with pytest.raises(BundleDamagedError) as caught:
        build_engine(graph, wanted, output, library)
    for part in (
        "graph has the input x: float32 (2, 3); expected x: float32 (F=2, D=4)",
        "graph lacks the input z: float32 (1)",
        "graph has the output y: float32 (2, 3); expected y: float16 (2, 3)",
    ):
        assert part in str(caught.value)
    assert not output.exists()


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that builds have used."""
    configs = []
    original = tensorrt_builder._Build._configure

    def configure(self: Any, builder: Any) -> Any:
        configs.append(original(self, builder))
        return configs[-1]

    monkeypatch.setattr(tensorrt_builder._Build, "_configure", configure)
    return configs


def test_options_reach_tensorrt(graph: Path, output: Path, library: Library, configured: list[Any]) -> None:
    options = EngineOptions(optimization_level=1, workspace_bytes=1 << 28, tf32=True)
    build_engine(graph, save_relu(graph), output, library, options)
    (config,), kinds = configured, library.module
    assert config.builder_optimization_level == 1
    assert config.get_memory_pool_limit(kinds.MemoryPoolType.WORKSPACE) == 1 << 28
    assert config.get_flag(kinds.BuilderFlag.TF32)


def test_by_default_products_are_exact_and_graphs_can_be_captured(
    graph: Path, output: Path, library: Library, configured: list[Any]
) -> None:
    build_engine(graph, save_relu(graph), output, library)
    (config,), flags = configured, library.module.BuilderFlag
    assert not config.get_flag(flags.TF32)
    assert config.get_flag(flags.REQUIRE_USER_ALLOCATION)
    assert config.num_compute_capabilities == 0


def test_a_timing_cache_is_left_alone_where_it_is_of_no_use(graph: Path, output: Path, library: Library) -> None:
    path = graph.with_name("timings")
    build_engine(graph, save_relu(graph), output, library, EngineOptions(timing_cache=path))
    assert not path.exists()
