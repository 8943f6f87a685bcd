"""Graphs of exporters pass; other graphs are refused before any library reads them."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_graphs import WEIGHTS, external, one_node_model
from tests.support.paths import POCKET
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.graph_check import check_graph
from vexpress_rt.errors import BundleDamagedError

FILES = {"the.weights": len(WEIGHTS)}


def check(model: onnx.ModelProto) -> None:
    check_graph(model.SerializeToString(), FILES)


def model(nodes: Sequence[onnx.NodeProto], *weights: onnx.TensorProto, opset: int = 20) -> onnx.ModelProto:
    """A graph from `x` (1, 3, 64, 64) to the output of the last node."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "H", "W"])
    y = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [x], [y], weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def weight(name: str, *shape: int, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def refused(made: onnx.ModelProto, why: str) -> None:
    with pytest.raises(BundleDamagedError, match=why):
        check(made)


# What passes


def test_every_engine_of_the_bundle_that_ships_passes() -> None:
    bundle = Bundle.open(POCKET)
    for name in bundle.manifest.engines:
        assert bundle.engine_path(name).is_file()


@pytest.mark.parametrize("opset", [11, 12, 17])
def test_a_face_detector_that_scales_by_the_sizes_of_other_levels_passes(opset: int) -> None:
    """As PyTorch's exporter writes `interpolate(top, size=side.shape[2:])`, `permute`, `reshape` and `sigmoid`."""
    nodes = [
        node("Conv", "x w", "c1", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c1 s s s s", "b1"),
        node("PRelu", "b1 s3", "r1"),
        node("MaxPool", "r1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", "p1", "a1", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("Shape", "p1", "shape"),
        node("Constant", "", "from", value=ints("", 2)),
        node("Slice", "shape from to", "side"),
        node("Shape", "a1", "own"),
        node("Gather", "own two", "batch", axis=0),
        node("Concat", "batch side", "sizes0", axis=0),
        node("Cast", "sizes0", "sizes", to=TensorProto.INT64),
        node("Resize", "a1 roi roi sizes", "up", mode="nearest", nearest_mode="floor"),
        node("Add", "up p1", "sum"),
        node("Mul", "sum scale", "scaled"),
        node("Transpose", "scaled", "t", perm=[0, 2, 3, 1]),
        node("Reshape", "t flat", "f"),
        node("Sigmoid", "f", "y"),
    ]
    weights = [weight("w", 3, 3, 3, 3), weight("s", 3), weight("s3", 3, 1, 1), weight("scale"), weight("roi", 0)]
    check(model(nodes, *weights, ints("two", 0, 1), ints("to", 4), ints("flat", -1, 1), opset=opset))


def test_weights_stored_as_float16_may_be_widened_and_those_of_upsampling_computed() -> None:
    nodes = [
        node("Cast", "narrow", "w", to=TensorProto.FLOAT),
        node("Gather", "w pick", "g", axis=3),
        node("Reshape", "g shape", "r"),
        node("MatMul", "r phases", "m"),
        node("Conv", "x w", "y"),
    ]
    weights = [weight("narrow", 64, 3, 3, 3, dtype=np.float16), weight("phases", 9, 16), ints("pick", 0, 1, 2)]
    check(model(nodes, *weights, ints("shape", 64 * 3, 9)))


@pytest.mark.parametrize("form", ["raw", "typed"])
def test_numbers_may_be_stored_in_either_form(form: str) -> None:
    for dtype, kind in [(np.float32, 1), (np.int64, 7), (np.float16, 10), (np.uint8, 2), (np.float64, 11)]:
        values = np.arange(6).astype(dtype)
        tensor = helper.make_tensor("w", kind, [2, 3], values.tobytes() if form == "raw" else values, raw=form == "raw")
        check(one_node_model(tensor))


def test_weights_lie_in_a_listed_file() -> None:
    check(one_node_model(external("w", "the.weights")))


# Weights in other files


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../the.weights", "other.weights", "manifest.json", "./the.weights", "", "the.weights/",
     "sub/../the.weights", "*/_ORT_MEM_ADDR_/*", "THE.WEIGHTS", "the.weights ", "file:///the.weights"],
)  # fmt: skip
def test_a_file_that_the_engine_does_not_list_is_refused(location: str) -> None:
    refused(one_node_model(external("w", location)), f"takes its values from {re.escape(repr(location))}; expected a")


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ({"offset": 1}, "takes 2300 bytes at 1 of the.weights, which has 2300"),
        ({"offset": 2**63}, "takes 2300 bytes at 9223372036854775808"),
        ({"offset": -1}, "offset = '-1'; expected a whole number"),
        ({"offset": "0x0"}, "offset = '0x0'; expected a whole number"),
        ({"offset": "1e3"}, "offset = '1e3'"),
        ({"offset": "\u0661"}, "expected a whole number"),  # a digit, but of Arabic
        ({"offset": "9" * 30}, "expected a whole number"),
        ({"length": 2299}, "takes 2299 bytes; expected 2300"),
        ({"length": 2301}, "takes 2301 bytes; expected 2300"),
        ({"length": None}, "external data by .*; expected location, offset and length"),
        ({"offset": None}, "external data by .*; expected location, offset and length"),
        ({"location": None, "offset": None, "length": None}, "data_location = 1 with no data"),
        ({"checksum": "0" * 40}, "more than 3 of external_data"),
        ({"length": None, "basepath": "/"}, "external data by .*basepath"),
    ],
)
def test_a_place_that_is_not_within_the_file_is_refused(place: dict[str, object], why: str) -> None:
    refused(one_node_model(external("w", **{"location": "the.weights", **place})), why)  # type: ignore[arg-type]


def test_a_place_between_two_numbers_is_refused() -> None:
    tensor = external("w", "the.weights", offset=2, length=16)
    tensor.data_type, tensor.dims[:] = TensorProto.FLOAT, [4]
    refused(one_node_model(tensor), "begins at byte 2 of the.weights; expected a multiple of its elements' 4 bytes")


def test_a_location_that_comes_twice_is_refused() -> None:
    tensor = external("w", "the.weights", offset=None)
    tensor.external_data.add(key="location", value="/etc/passwd")
    refused(one_node_model(tensor), "expected location, offset and length")


def test_data_in_two_places_is_refused() -> None:
    tensor = external("w", "the.weights")
    tensor.raw_data = WEIGHTS
    refused(one_node_model(tensor), "data_location = 1 with external_data, raw_data")
    tensor.data_location = TensorProto.DEFAULT
    refused(one_node_model(tensor), "data_location = 0 with external_data, raw_data")


def test_another_file_in_an_attribute_is_refused() -> None:
    constant = helper.make_node("Constant", [], ["c"], value=external("w", "the.weights"))
    refused(model([constant, node("Add", "x c", "y")]), "takes its value from another file")


# What the exporter never writes


@pytest.mark.parametrize(
    "operator",
    ["If", "Loop", "Scan", "SequenceMap", "ConstantOfShape", "Tile", "Expand", "Range", "EyeLike", "OneHot", "NonZero",
     "RandomNormal", "Einsum", "StringConcat", "ImageDecoder", "Optional", "NoSuchOperator", ""],
)  # fmt: skip
def test_an_operator_that_no_engine_needs_is_refused(operator: str) -> None:
    refused(model([node(operator, "x", "y")]), rf"of the operator '{operator}', which no engine of this package needs")


@pytest.mark.parametrize(
    ("operator", "domain"),
    [("Add", "evil"), ("TreeEnsemble", "ai.onnx.ml"), ("FusedMatMul", "com.microsoft"), ("BiasGelu", ""),
     ("EPContext", "com.microsoft"), ("PyOp", "ai.onnx.contrib"), ("PythonOp", "com.microsoft")],
)  # fmt: skip
def test_an_operator_of_another_domain_is_refused(operator: str, domain: str) -> None:
    refused(model([node(operator, "x", "y", domain=domain)]), "which no engine of this package needs")


def set_opset(made: onnx.ModelProto, *opsets: tuple[str, int]) -> None:
    del made.opset_import[:]
    made.opset_import.extend(helper.make_opsetid(*opset) for opset in opsets)


@pytest.mark.parametrize(
    ("opsets", "why"),
    [
        ([("", 6)], "opset 6 of 'ai.onnx'; expected 7 to 25"),
        ([("", 2**40)], "opset 1099511627776 of"),
        ([("", 20), ("evil", 1)], "opset 1 of 'evil'; expected the domains"),
        ([("", 20), ("ai.onnx", 12)], "imports the domain 'ai.onnx' twice"),
        ([], "names no opset"),
    ],
)
def test_an_opset_that_is_not_known_is_refused(opsets: list[tuple[str, int]], why: str) -> None:
    made = one_node_model()
    set_opset(made, *opsets)
    refused(made, why)


def _functions(made: onnx.ModelProto) -> None:
    made.functions.add(name="double", domain="local").node.add(op_type="Add")


def _training(made: onnx.ModelProto) -> None:
    made.training_info.add().algorithm.initializer.add().CopyFrom(external("w", "/etc/passwd"))


def _sparse(made: onnx.ModelProto) -> None:
    made.graph.sparse_initializer.add().values.CopyFrom(external("w", "/etc/passwd"))


def _inner_graph(made: onnx.ModelProto) -> None:
    made.graph.node[0].attribute.add(name="body", type=5).g.initializer.add().CopyFrom(external("w", "/etc/passwd"))


def _hidden_graph(made: onnx.ModelProto) -> None:
    """In an attribute that is declared as a number."""
    made.graph.node[0].attribute.add(name="axis", type=2, i=1).g.name = "hidden"


def _list_of_tensors(made: onnx.ModelProto) -> None:
    made.graph.node[0].attribute.add(name="all", type=9).tensors.add().CopyFrom(external("w", "/etc/passwd"))


def _reference(made: onnx.ModelProto) -> None:
    made.graph.node[0].attribute.add(name="axis", type=2, ref_attr_name="outer")


def _segment(made: onnx.ModelProto) -> None:
    made.graph.initializer.add(name="w", data_type=1, dims=[1], raw_data=b"\0" * 4).segment.begin = 1


def _text(made: onnx.ModelProto) -> None:
    made.graph.initializer.add(name="w", data_type=8, dims=[1], string_data=[b"text"])


def _quantised(made: onnx.ModelProto) -> None:
    made.graph.quantization_annotation.add(tensor_name="x")


def _device(made: onnx.ModelProto) -> None:
    made.configuration.add(name="two", num_devices=2)


def _sequence(made: onnx.ModelProto) -> None:
    made.graph.value_info.add(name="s").type.sequence_type.elem_type.tensor_type.elem_type = 1


def _unknown_field(made: onnx.ModelProto) -> None:
    made.graph.MergeFromString(b"\xf2\x3f\x01a")


@pytest.mark.parametrize(
    "change",
    [_functions, _training, _sparse, _inner_graph, _hidden_graph, _list_of_tensors, _reference, _segment, _text,
     _quantised, _device, _sequence, _unknown_field],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_a_graph_in_a_graph_and_data_of_another_form_are_refused(change: Callable[[onnx.ModelProto], None]) -> None:
    made = one_node_model()
    change(made)
    refused(made, "which no engine of this package has|element type 8|is not a tensor")


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"group": 0}, "group = 0; expected 1 to 65536"),
        ({"strides": [1, 0]}, r"strides = \[1, 0\]; expected 1"),
        ({"dilations": [2**62, 1]}, "dilations = "),
        ({"kernel_shape": [-1]}, "kernel_shape = "),
        ({"pads": [0, 0, 0, 2**40]}, "pads = .*; expected 0 to 65536"),
        ({"group": 1.5}, "group = "),
        ({"strides": list(range(1, 5000))}, "more than 4096 of ints"),
    ],
)
def test_attributes_that_libraries_divide_by_or_make_memory_of_have_a_range(
    attributes: dict[str, Any], why: str
) -> None:
    refused(model([node("Conv", "x w", "y", **attributes)], weight("w", 3, 3, 3, 3)), why)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("Add", "x nothing", "y")], "takes 'nothing', which no node before it computes"),
        ([node("Add", "x z", "y"), node("Relu", "y", "z"), node("Relu", "z", "end")], "takes 'z', which no node"),
        ([node("Relu", "x", "y"), node("Relu", "x", "y")], "computes 'y', which exists already"),
        ([node("Relu", "x", "x")], "computes 'x', which exists already"),
        ([helper.make_node("Relu", ["x"], [])], "expected"),
    ],
)
def test_values_are_computed_once_and_before_their_use(nodes: list[onnx.NodeProto], why: str) -> None:
    made = one_node_model()
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    refused(made, why)


# Tensors that are not what they say


@pytest.mark.parametrize(
    ("dims", "why"),
    [
        ([2], "has 1 elements; expected 2"),
        ([-1], "expected sizes of at least 0"),
        ([2**40, 2**40], "at most 17179869184 elements"),
        ([2**63 - 1, 2], "at most 17179869184 elements"),
        ([1] * 17, "more than 16 of dims"),
        ([], None),
        ([1, 1], None),
    ],
)
def test_a_tensor_has_as_many_numbers_as_its_dims_say(dims: list[int], why: str | None) -> None:
    made = one_node_model(TensorProto(name="w", data_type=1, dims=dims, raw_data=b"\0" * 4))
    if why is None:
        check(made)
    else:
        refused(made, why)


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(name="w", data_type=1, dims=[4]),
        TensorProto(name="w", data_type=1, dims=[1], raw_data=b"\0" * 5),
        TensorProto(name="w", data_type=1, dims=[1], int64_data=[1]),
        TensorProto(name="w", data_type=1, dims=[1], float_data=[1], raw_data=b"\0" * 4),
        TensorProto(name="w", data_type=99, dims=[1], raw_data=b"\0"),
        TensorProto(name="w", data_type=22, dims=[2], raw_data=b"\0"),
        TensorProto(name="w", dims=[1], raw_data=b"\0"),
        TensorProto(name="", data_type=2, dims=[1], raw_data=b"\0"),
        TensorProto(name="x\n", data_type=2, dims=[1], raw_data=b"\0"),
        TensorProto(name="x" * 1025, data_type=2, dims=[1], raw_data=b"\0"),
    ],
)
def test_a_tensor_that_is_not_as_writers_make_it_is_refused(tensor: TensorProto) -> None:
    refused(one_node_model(tensor), "the tensor|a tensor|initializers")


# Constants that grow


def doubling(operator: str, times: int) -> list[onnx.NodeProto]:
    return [
        node(operator, f"c{i} c{i}", f"c{i + 1}", **({"axis": 0} if operator == "Concat" else {})) for i in range(times)
    ]


@pytest.mark.parametrize(
    "nodes",
    [
        [*doubling("Concat", 30), node("Add", "x c30", "y")],
        [node("Unsqueeze", "c0 one", "row"), node("Mul", "row c0", "square"), node("Add", "x square", "y")],
        [node("Reshape", "c0 column", "left"), node("Reshape", "c0 line", "right"), node("MatMul", "left right", "m"),
         node("Add", "x m", "y")],
        [node("Reshape", "c0 line", "right"), node("Gather", "right many", "g"), node("Add", "x g", "y")],
        [node("Shape", "x", "s"), *[node("Mul", f"{'s' if i == 0 else f'o{i}'} q", f"o{i + 1}") for i in range(9)],
         *[node("Concat", f"{'o9' if i == 0 else f'p{i}'} o9", f"p{i + 1}", axis=0) for i in range(9)],
         node("Mul", "p9 wide", "y")],
        [node("Resize", "c0 none scales", "r"), node("Add", "x r", "y")],
        [node("Pad", "c0 pads", "r"), node("Add", "x r", "y")],
        [node("Conv", "c0 c0", "r", pads=[60000, 60000]), node("Add", "x r", "y")],
        [node("Upsample", "c0 scales", "r"), node("Add", "x r", "y")],
    ],
    ids=["doubling", "outer product", "matmul", "gather", "shape", "resize", "pad", "conv", "upsample"],
)  # fmt: skip
def test_constants_that_grow_far_beyond_what_is_stored_are_refused(nodes: list[onnx.NodeProto]) -> None:
    weights = [
        weight("c0", 40_000), ints("column", -1, 1), ints("line", 1, -1), ints("one", 1), ints("pads", 0, 2**40),
        weight("scales", 1), weight("none", 0), ints("many", *[0] * 40_000), weight("q", 1000), weight("wide", 5000),
    ]  # fmt: skip
    refused(model(nodes, *weights), "bytes from constants alone|has only constant inputs")


def test_constants_computed_again_and_again_are_refused() -> None:
    """No product is larger than the stored constants, but all of them together take hours."""
    nodes = [node("Transpose", f"c{i}", f"c{i + 1}") for i in range(1000)]
    refused(model([*nodes, node("Add", "x c1000", "y")], weight("c0", 500, 500)), "bytes from constants alone")


# Files that are none


def test_other_files_than_onnx_are_refused() -> None:
    for data in (b"", b"\0", b"\x08\x08", b"{}", b"GGUF" + b"\0" * 100, b"\x89PNG\r\n\x1a\n", b"\x3a\x00" * 2):
        with pytest.raises(BundleDamagedError):
            check_graph(data, {})


def test_two_models_in_one_file_which_protobuf_merges_are_refused() -> None:
    data = one_node_model().SerializeToString()
    with pytest.raises(BundleDamagedError, match="twice"):
        check_graph(data + data, {})


def test_a_file_cut_short_anywhere_is_refused() -> None:
    data = model([node("Conv", "x w", "y")], weight("w", 3, 3, 3, 3)).SerializeToString()
    check_graph(data, {})
    for length in range(len(data) - 24):  # after that come the opsets, of which one may be left out
        with pytest.raises(BundleDamagedError):
            check_graph(data[:length], {})


def test_damaged_files_are_read_or_refused_and_nothing_else() -> None:
    rng = random.Random(0)
    nodes = [node("Cast", "n", "w", to=1), node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("Reshape", "c s", "y")]
    weights = [weight("n", 3, 3, 3, 3, dtype=np.float16), ints("s", -1, 1), external("e", "the.weights")]
    data = model(nodes, *weights).SerializeToString()
    outcomes = {True: 0, False: 0}
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        try:
            check_graph(bytes(damaged), FILES)
            outcomes[True] += 1
        except BundleDamagedError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 100


@pytest.mark.parametrize(
    "part", [b"\x0a\x00", b"\x2a\x00", b"\x6a\x00", b"\x5a\x00"], ids=["nodes", "weights", "values", "inputs"]
)
def test_a_file_of_nothing_but_tiny_parts_is_refused_soon(part: bytes) -> None:
    graph = part * 4_000_000
    length = len(graph)
    varint = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14 & 0x7F | 0x80, length >> 21])
    # The bound of a guarantee, not a benchmark: a hostile file of 8 MB does not keep the processor busy.
    start = time.process_time()
    with pytest.raises(BundleDamagedError):
        check_graph(b"\x3a" + varint + graph, {})
    assert time.process_time() - start < 5
