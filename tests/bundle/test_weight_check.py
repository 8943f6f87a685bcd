"""Weights that are NaN or infinite are reported before an engine runs: its frames are uint8, where NaN is black."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from export.build.assembly import _check_graph as check_built
from export.errors import ExportError
from tests.support.onnx_graphs import one_node_model
from tests.support.paths import POCKET
from tests.support.scenes import FAST, photo, speech
from vexpress_rt import BundleDamagedError, Generator
from vexpress_rt.bundle import bundle
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.graph_check import GraphWeights, check_graph, check_graph_file
from vexpress_rt.bundle.onnx_graph import ByteRange, ExternalData, Tensor
from vexpress_rt.bundle.weight_check import BLOCK, find_in_graph, find_in_weights

ENGINES = tuple(json.loads((POCKET / "manifest.json").read_text())["engines"])
FLOAT, HALF, DOUBLE, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16
BITS: dict[int, Any] = {FLOAT: np.uint32, HALF: np.uint16, DOUBLE: np.uint64, BF16: np.uint16}
INFINITY = {FLOAT: 0x7F800000, HALF: 0x7C00, DOUBLE: 0x7FF0000000000000, BF16: 0x7F80}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A copy of the shipped bundle of 18 MB, removed after the test."""
    yield shutil.copytree(POCKET, tmp_path / "pocket")
    shutil.rmtree(tmp_path)


def replace(folder: Path, name: str, content: bytes, engine: str = "") -> None:
    """Replace or add a file of a bundle, and update the manifest."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if engine:
        manifest["engines"][engine]["data"] = [name]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def last_of(model: onnx.ModelProto, element: int, *, external: bool) -> onnx.TensorProto:
    """Return the last tensor of an element type in the graph, or in an external file."""
    found = [t for t in model.graph.initializer if t.data_type == element and (t.data_location == 1) is external]
    return found[-1]


def spoil(content: bytes, element: int, at: int, value: float = np.nan) -> bytes:
    """Return the bytes of a tensor with one number replaced by `value`."""
    numbers = np.frombuffer(content, np.float16 if element == HALF else np.float32).copy()
    numbers[at] = value
    return numbers.tobytes()


def refused(folder: Path, engine: str, tensor: str, file: str, found: str = "NaN") -> None:
    with pytest.raises(BundleDamagedError) as caught:
        Bundle.open(folder).engine_path(engine)
    message = str(caught.value)
    assert f"the weights of engine {engine} are damaged, or its training diverged: in {file} the" in message
    assert f"the tensor {tensor!r} holds {found}" in message
    assert "expected finite numbers: build the bundle again with `python -m export.build" in message
    assert message.endswith("from a sound checkpoint")


# Each engine of a bundle


@pytest.mark.parametrize("element", [FLOAT, HALF], ids=["fp32", "fp16"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_weight_of_any_engine_that_is_none_is_named(folder: Path, engine: str, element: int) -> None:
    model = onnx.load(str(folder / f"{engine}.onnx"), load_external_data=False)
    tensor = last_of(model, element, external=False)
    tensor.raw_data = spoil(tensor.raw_data, element, -1)
    replace(folder, f"{engine}.onnx", model.SerializeToString())
    refused(folder, engine, tensor.name, f"{engine}.onnx")


@pytest.mark.parametrize("element", [FLOAT, HALF], ids=["fp32", "fp16"])
@pytest.mark.parametrize("engine", ENGINES)
def test_so_is_one_that_lies_beside_the_graph(folder: Path, engine: str, element: int) -> None:
    path, name = folder / f"{engine}.onnx", f"{engine}.weights"
    model = onnx.load(str(path))  # with all that lies beside it
    external_data_helper.convert_model_to_external_data(model, location=name, size_threshold=64)
    made = folder.parent / "made"
    made.mkdir()
    onnx.save(model, str(made / path.name))
    moved = onnx.load(str(made / path.name), load_external_data=False)
    tensor = last_of(moved, element, external=True)
    place = {entry.key: entry.value for entry in tensor.external_data}
    start, length = int(place["offset"]), int(place["length"])
    weights = (made / name).read_bytes()
    replace(folder, path.name, (made / path.name).read_bytes())
    replace(folder, name, weights, engine)
    assert Bundle.open(folder).engine_path(engine) == path
    number = spoil(weights[start : start + length], element, 0, -np.inf)
    replace(folder, name, weights[:start] + number + weights[start + length :], engine)
    refused(folder, engine, tensor.name, name, "infinity")


def test_the_bundle_that_ships_is_finite() -> None:
    opened = Bundle.open(POCKET)
    for name in opened.manifest.engines:
        opened.engine_path(name)


def spoil_graph(folder: Path, engine: str) -> None:
    model = onnx.load(str(folder / f"{engine}.onnx"))
    tensor = last_of(model, FLOAT, external=False)
    tensor.raw_data = spoil(tensor.raw_data, FLOAT, 0)
    replace(folder, f"{engine}.onnx", model.SerializeToString())


def test_a_photo_is_not_said_to_have_no_face_because_of_a_detector_that_computes_nan(folder: Path) -> None:
    spoil_graph(folder, "face_detector")
    generator = Generator(folder)
    with pytest.raises(BundleDamagedError, match="weights of engine face_detector are damaged"):
        generator.prepare(photo())


def test_no_black_video_is_made_by_a_decoder_that_computes_nan(folder: Path, tmp_path: Path) -> None:
    spoil_graph(folder, "vae_decoder")
    generator = Generator(folder)
    portrait = generator.prepare(photo(), keypoints=[[25, 30], [38, 30], [32, 38]])
    with pytest.raises(BundleDamagedError, match="weights of engine vae_decoder are damaged"):
        generator.generate(portrait, speech(0.3), output=tmp_path / "out.mp4", config=FAST)
    assert not (tmp_path / "out.mp4").exists()


def test_weights_are_looked_at_once_also_where_two_engines_share_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[ByteRange]] = []
    looked: list[str] = []

    def counting(file: io.BufferedReader, tensors: list[Tensor]) -> str | None:
        seen.append({tensor.byte_range for tensor in tensors})
        return find_in_weights(file, tensors)

    def reading(file: io.BufferedReader, weights: dict[str, int]) -> GraphWeights:
        looked.append(str(file.name))
        return check_graph_file(file, weights)

    monkeypatch.setattr(bundle, "find_in_weights", counting)
    monkeypatch.setattr(bundle, "check_graph_file", reading)
    opened = Bundle.open(folder)
    for _ in range(2):
        opened.engine_path("denoiser")
        opened.engine_path("denoiser_cond")
    assert len(looked) == 2
    assert len(seen[0]) > 300
    assert not any(seen[0] & places for places in seen[1:])
    assert len(seen) <= 2
    replace(folder, "denoiser.weights", (folder / "denoiser.weights").read_bytes())  # another file, of the same content
    opened.engine_path("denoiser")
    assert seen[-1] == seen[0]


# Every form that numbers have in a file


def typed(element: int, bits: Any, form: str) -> onnx.TensorProto:
    """Return a tensor `w` of the given bits, as raw bytes or in the field for its type."""
    tensor = TensorProto(name="w", data_type=element, dims=[len(bits)])
    if form == "raw":
        tensor.raw_data = bits.tobytes()
    elif element == FLOAT:
        tensor.float_data.extend(bits.view(np.float32).tolist())
    elif element == DOUBLE:
        tensor.double_data.extend(bits.view(np.float64).tolist())
    else:
        tensor.int32_data.extend(bits.tolist())
    return tensor


def found_in(*tensors: onnx.TensorProto, node: onnx.NodeProto | None = None) -> str | None:
    model = one_node_model(*tensors)
    if node is not None:
        model.graph.node.insert(0, node)
    data = model.SerializeToString()
    return find_in_graph(data, check_graph(data, {}))


@pytest.mark.parametrize("form", ["raw", "typed"])
@pytest.mark.parametrize("element", BITS, ids=["fp32", "fp16", "fp64", "bf16"])
def test_the_bits_of_any_float_are_distinguished(element: int, form: str) -> None:
    infinity = INFINITY[element]
    sign = 1 << (8 * np.dtype(BITS[element]).itemsize - 1)
    finite = [0, sign, 1, sign | 1, infinity - 1, sign | (infinity - 1)]  # zeros, the least numbers, the greatest
    assert found_in(typed(element, np.array(finite, BITS[element]), form)) is None
    for bits in (infinity, infinity | sign):
        found = found_in(typed(element, np.array([*finite, bits, 0], BITS[element]), form))
        assert found is not None
        assert "'w' holds infinity" in found
        assert "number 7 of 8 of" in found
    quiet = infinity | (infinity + (infinity & -infinity) // 2 - infinity)  # the first bit below the exponent's
    for bits in (quiet, quiet | sign, quiet | 1, sign - 1):
        found = found_in(typed(element, np.array([*finite, bits, 0], BITS[element]), form))
        assert found is not None
        assert "'w' holds NaN as number 7 of 8 of" in found


def test_an_infinite_float16_says_which_precision_holds_more() -> None:
    found = found_in(typed(HALF, np.array([INFINITY[HALF]], np.uint16), "raw"))
    assert found is not None
    assert "infinity (float16 ends at 65504; --precision fp32 keeps more)" in found


@pytest.mark.parametrize("form", ["raw", "typed"])
@pytest.mark.parametrize("element", [FLOAT, HALF, BF16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("at", [0, 65537, BLOCK // 2 - 1, BLOCK // 2, BLOCK + 4])
def test_a_number_is_found_wherever_it_lies_among_a_million(element: int, form: str, at: int) -> None:
    """In whatever block; numbers as varints have one to three bytes, so that they cross from one block to the next."""
    bits = (np.arange(BLOCK + 5) & 0x3FFF).astype(BITS[element])
    assert found_in(typed(element, bits, form)) is None
    bits[at] = INFINITY[element]
    found = found_in(typed(element, bits, form))
    assert found is not None
    assert f"infinity as number {at + 1} of {BLOCK + 5} of" in found.replace(
        " (float16 ends at 65504; --precision fp32 keeps more)", ""
    )


def test_numbers_that_are_not_packed_are_looked_at() -> None:
    """Each has a tag of its own then, as old writers of protobuf had it."""
    tag, value = b"\x28", b"\x81\xfc\x01"  # int32_data, 0x7e01
    tensor = b"\x08\x03\x10\x0a\x42\x01w" + (tag + b"\x01") * 2 + tag + value
    data = one_node_model().SerializeToString()
    model = onnx.ModelProto.FromString(data)
    model.graph.initializer.append(TensorProto.FromString(tensor))
    packed = model.graph.initializer[0].SerializeToString()
    assert packed != tensor
    graph = one_node_model().graph.SerializeToString() + b"\x2a" + bytes([len(tensor)]) + tensor
    whole = b"\x08\x0a\x3a" + bytes([len(graph)]) + graph + b"\x42\x04\x0a\x00\x10\x14"
    found = find_in_graph(whole, check_graph(whole, {}))
    assert found == "the tensor 'w' holds NaN as number 3 of 3 of float16; expected finite numbers"


def test_constants_within_nodes_are_weights_too() -> None:
    for dtype in (np.float32, np.float16):
        value = numpy_helper.from_array(np.array([1, np.nan], dtype), "bias")
        found = found_in(node=helper.make_node("Constant", [], ["c"], value=value))
        assert found is not None
        assert "'bias' holds NaN as number 2 of 2" in found


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_of_attributes_are_finite(value: float) -> None:
    for attributes in ({"value_float": value}, {"value_floats": [1.0, value]}):
        with pytest.raises(BundleDamagedError, match=r"Constant of 'c' has value_float.* expected finite numbers"):
            found_in(node=helper.make_node("Constant", [], ["c"], **attributes))


def test_integers_are_passed_over() -> None:
    values = np.full(8, -1, np.int64)  # the bits of NaN
    assert found_in(numpy_helper.from_array(values, "w"), numpy_helper.from_array(values.astype(np.uint8), "v")) is None


def test_a_list_of_floats_that_ends_within_one_is_refused() -> None:
    tensor = b"\x08\x01\x10\x01\x42\x01w\x22\x07" + b"\0" * 7
    graph = one_node_model().graph.SerializeToString() + b"\x2a" + bytes([len(tensor)]) + tensor
    whole = b"\x08\x0a\x3a" + bytes([len(graph)]) + graph + b"\x42\x04\x0a\x00\x10\x14"
    with pytest.raises(BundleDamagedError, match="'w' has float_data that ends in the middle of a number"):
        check_graph(whole, {})


# Files beside graphs


class Counting(io.BytesIO):
    """A file that counts the bytes read from it."""

    bytes_read = 0

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self.bytes_read += count
        return count


def beside(element: int, size: int, *places: tuple[int, int]) -> Iterator[Tensor]:
    """Yield external tensors of (first number, count)."""
    for index, (start, count) in enumerate(places):
        yield Tensor(f"w{index}", element, (count,), ExternalData("w", start * size, count * size))


def look(content: bytes, tensors: Iterator[Tensor]) -> tuple[str | None, int]:
    file = Counting(content)
    return find_in_weights(file, tensors), file.bytes_read  # type: ignore[arg-type]


def test_a_file_that_many_tensors_share_is_read_once() -> None:
    numbers = np.zeros(BLOCK // 2, np.float32)
    places = [(start, len(numbers) - 2 * start) for start in range(5000)]
    assert look(numbers.tobytes(), beside(FLOAT, 4, *places)) == (None, numbers.nbytes)


def test_of_what_lies_beside_a_graph_tensors_alone_are_looked_at() -> None:
    numbers = np.zeros(300, np.float32)
    numbers[[99, 200]] = np.nan
    assert look(numbers.tobytes(), beside(FLOAT, 4, (0, 99), (100, 100), (201, 99))) == (None, 4 * 298)
    found, _ = look(numbers.tobytes(), beside(FLOAT, 4, (0, 99), (201, 99), (150, 51)))
    assert found == "the tensor 'w2' holds NaN as number 51 of 51 of float32; expected finite numbers"


def test_tensors_of_several_types_in_one_file_are_looked_at_each_by_its_own() -> None:
    content = np.full(64, 0x7E00, np.uint16).tobytes()  # NaN for float16 alone
    assert look(content, beside(BF16, 2, (0, 64)))[0] is None
    both = [*beside(HALF, 2, (10, 4)), *beside(FLOAT, 4, (0, 32)), *beside(BF16, 2, (0, 64))]
    found, _ = look(content, iter(both))
    assert found is not None
    assert "NaN as number 1 of 4 of float16" in found


def test_a_file_that_became_shorter_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="ends before byte 400"):
        look(bytes(396), beside(FLOAT, 4, (0, 100)))


# What is built


@pytest.mark.parametrize("where", ["in", "beside"])
def test_no_bundle_is_built_of_such_weights(tmp_path: Path, where: str) -> None:
    model = one_node_model(numpy_helper.from_array(np.array([0, np.nan], np.float32), "conv_in.weight"))
    path = tmp_path / "vae_decoder.onnx"
    beside_it = {"save_as_external_data": True, "location": "w.weights", "size_threshold": 0}
    onnx.save(model, str(path), **(beside_it if where == "beside" else {}))
    sizes = {"w.weights": 8} if where == "beside" else {}
    with pytest.raises(ExportError, match=r"weights of vae_decoder are damaged.* 'conv_in\.weight' holds NaN .*sound"):
        check_built(path, sizes)
