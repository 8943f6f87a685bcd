"""ONNX graphs of a bundle: hostile graphs, and graphs with mutated protobuf fields.

The manifest lists them with their true size and hash, as in a hostile bundle. The suffix of an input's file name
contains the name of the engine.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tests.robustness.cases import Case
from tests.robustness.mutations import TOKENS, mutate
from tests.robustness.readers.manifests import POCKET
from tests.robustness.wire import damage

_DETECTOR = "face_detector"
_SMALL = (_DETECTOR, "pose_guider", "audio_projection", "vae_encoder")
_LARGEST = 3 << 20  # bytes; larger graphs are mostly weights, and are not damaged
_TOKENS = (
    *TOKENS, b"../../canary/secret.bin", b"location", b"external", b"*/_ORT_MEM_ADDR_/*", b"Loop", b"If", b"Scan",
    b"com.microsoft",
    b"ai.onnx.ml", b"PyOp", b"Reshape", b"ConstantOfShape", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
)  # fmt: skip
_LOCATIONS = (
    "../../canary/secret.bin", "../canary/secret.bin", "/etc/passwd", "manifest.json", "denoiser.weights",
    "extra.bin", "link.bin",
    "vae_encoder.onnx", "./extra.bin", "sub/../extra.bin", "*/_ORT_MEM_ADDR_/*", "", "\0", "extra.bin\0x",
    "file:extra.bin", "x" * 5000, "hard.bin",
)  # fmt: skip


class Graphs:
    """Loads an engine as `Generator` does, and runs it once."""

    memory = 3600  # about seven eighths of `limits.HARD_MEMORY`, the most that an engine can use before it fails
    noisy: tuple[bytes, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "bundle"

    def seeds(self) -> Sequence[Case]:
        graphs = [Case(f".onnx_{name}", (POCKET / f"{name}.onnx").read_bytes()) for name in _SMALL]
        return [case for case in graphs if len(case.content) <= _LARGEST]

    def make(self, chance: random.Random, seeds: Sequence[Case]) -> Case:
        kind = chance.random()
        if kind < 0.5:
            return Case(f".onnx_{_DETECTOR}", hostile(chance))
        seed = chance.choice(seeds)
        if kind < 0.9:
            return Case(seed.suffix, damage(chance, seed.content))
        return Case(seed.suffix, mutate(chance, seed.content, [other.content for other in seeds], _TOKENS))

    def read(self, path: Path) -> None:
        from vexpress_rt.backends.registry import choose
        from vexpress_rt.bundle.bundle import Bundle

        name = path.suffix.removeprefix(".onnx_")
        bundle = Bundle.open(self._with(name, path.read_bytes()))
        engine = choose("cpu", bundle).loader.load(name, threads=1)
        try:
            self._check_weights(bundle, name)
            outputs = engine.run({one.name: _zeros(one) for one in engine.spec.inputs})
            assert all(isinstance(array, np.ndarray) for array in outputs.values())
        finally:
            engine.close()

    def _with(self, name: str, graph: bytes) -> Path:
        """Return a copy of the shipped bundle with one graph replaced."""
        import hashlib

        target = self._folder / f"{name}.onnx"
        if not self._folder.exists():
            shutil.copytree(POCKET, self._folder)
            (self._folder / "extra.bin").write_bytes(bytes(4096))
            (self._folder / "link.bin").symlink_to("../../canary/secret.bin")
            (self._folder / "hard.bin").hardlink_to(self._folder / "extra.bin")
        for other in _SMALL:
            if (
                other != name
                and (self._folder / f"{other}.onnx").stat().st_size != self._plain["files"][f"{other}.onnx"]["bytes"]
            ):
                shutil.copyfile(POCKET / f"{other}.onnx", self._folder / f"{other}.onnx")
        target.write_bytes(graph)
        manifest = json.loads(json.dumps(self._plain))
        manifest["files"][target.name] = {"bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
        (self._folder / "manifest.json").write_text(json.dumps(manifest))
        return self._folder

    @cached_property
    def _plain(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((POCKET / "manifest.json").read_text())
        return found

    def _check_weights(self, bundle: Any, name: str) -> None:
        """Assert that all weights of an accepted graph are in files that the manifest lists for it."""
        import onnx

        model = onnx.load(str(self._folder / f"{name}.onnx"), load_external_data=False)
        listed = set(bundle.manifest.engines[name].data)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                assert entry.key != "location" or entry.value in listed, f"weights were taken from {entry.value!r}"


def _zeros(tensor: Any) -> np.ndarray:
    shape = [32 if size is None else size for size in tensor.shape]
    if tensor.name == "samples":
        shape[-1] = 4000
    if np.prod([float(size) for size in shape]) > 1e8:
        shape = [min(size, 8) for size in shape]
    known = (
        "float16",
        "float32",
        "float64",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "bool",
        "uint16",
        "uint32",
        "uint64",
    )
    return np.zeros(shape, tensor.dtype if tensor.dtype in known else "float32")


def hostile(chance: random.Random) -> bytes:
    """Return a graph that hangs, grows, refers to other files or contains custom code."""
    return chance.choice(_HOSTILE)(chance)


def _model(
    nodes: Sequence[Any], weights: Sequence[Any] = (), *, functions: Sequence[Any] = (), domains: Sequence[str] = ()
) -> bytes:
    """Return a graph with the detector's input, 1 x 3 x 512 x 512, and an output `y`."""
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, None, None])]
    outs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(list(nodes), "g", ends, outs, list(weights))
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))
    data: bytes = model.SerializeToString()
    return data


def _array(name: str, values: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(values), name)


def _node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def _loop(chance: random.Random) -> bytes:
    from onnx import TensorProto, helper

    count = chance.choice((2**62, 2**40, 10**9, 3))
    body = helper.make_graph(
        [_node("Identity", "go", "on"), _node("Add", "v v", "w")], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go",
        TensorProto.BOOL, []),
         helper.make_tensor_value_info("v", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("w",
        TensorProto.FLOAT, None)],
    )  # fmt: skip
    weights = [_array("n", np.int64(count)), _array("yes", True), _array("one", np.float32(1))]
    start = chance.choice(("one", "input"))
    return _model([_node("Loop", f"n yes {start}", "y", body=body)], weights)


def _if(chance: random.Random) -> bytes:
    from onnx import TensorProto, helper

    def branch(name: str, deep: int) -> Any:
        out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        if deep == 0:
            return helper.make_graph([_node("Neg", "input", name)], name, [], out)
        inner = _node(
            "If", "yes", name, then_branch=branch(f"{name}a", deep - 1), else_branch=branch(f"{name}b", deep - 1)
        )
        return helper.make_graph([inner], name, [], out)

    deep = chance.choice((1, 2, 8))
    node = _node("If", "yes", "y", then_branch=branch("t", deep), else_branch=branch("e", 0))
    return _model([node], [_array("yes", True)])


def _functions(chance: random.Random) -> bytes:
    """Return functions, each of which calls the previous one twice: 2^n nodes after inlining."""
    from onnx import helper

    count = chance.choice((3, 12, 30, 60))
    opsets, made = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)], []
    for index in range(count):
        kind, domain = ("Neg", "") if index == 0 else (f"F{index - 1}", "own")
        nodes = [_node(kind, "a", "b", domain=domain), _node(kind, "b", "c", domain=domain)]
        made.append(helper.make_function("own", f"F{index}", ["a"], ["c"], nodes, opsets))
    return _model([_node(f"F{count - 1}", "input", "y", domain="own")], functions=made, domains=["own"])


def _growth(chance: random.Random) -> bytes:
    """Return constants that fold to far more bytes than the file has."""
    side = chance.choice((1 << 8, 1 << 12, 1 << 15, 1 << 20))
    kind = chance.randrange(6)
    if kind == 0:
        nodes = [_node("ConstantOfShape", "s", "big"), _node("ReduceSum", "big", "t"), _node("Add", "input t", "y")]
        return _model(nodes, [_array("s", np.array([side, side]))])
    if kind == 1:
        nodes = [_node("Expand", "one s", "big"), _node("ReduceSum", "big", "t"), _node("Add", "input t", "y")]
        return _model(nodes, [_array("one", np.float32([1])), _array("s", np.array([side, side]))])
    if kind == 2:
        nodes = [_node("Tile", "one s", "big"), _node("ReduceMax", "big", "t"), _node("Add", "input t", "y")]
        return _model(nodes, [_array("one", np.ones((1, 1), np.float32)), _array("s", np.array([side, side]))])
    if kind == 3:
        nodes = [_node("Range", "a b c", "big"), _node("ReduceSum", "big", "t"), _node("Add", "input t", "y")]
        return _model(
            nodes, [_array("a", np.float32(0)), _array("b", np.float32(side**2 % 2**40)), _array("c", np.float32(1))]
        )
    if kind == 4:
        nodes = [_node("Resize", "input   s", "big", mode="nearest")]
        nodes = [_node("Pad", "input p", "big"), _node("ReduceSum", "big", "y")]
        return _model(nodes, [_array("p", np.array([0, 0, side, side, 0, 0, side, side]))])
    nodes = [_node("Concat", " ".join(["input"] * 2), "x0", axis=1)]
    count = chance.choice((4, 12, 30))
    nodes += [_node("Concat", f"x{i} x{i}", f"x{i + 1}", axis=1) for i in range(count)]
    return _model([*nodes, _node("ReduceSum", f"x{count}", "y")])


def _external(chance: random.Random) -> bytes:
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[chance.choice((4, 1000, 10**9, 0))])
    tensor.data_location = TensorProto.EXTERNAL
    pairs = {"location": chance.choice(_LOCATIONS), "offset": chance.choice(("0", "-1", "8", str(2**63), "x", "")),
             "length": chance.choice(("16", "0", "4000", str(2**63), "-4", ""))}  # fmt: skip
    for key, value in pairs.items():
        if value or key == "location":
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    nodes = [_node("ReduceSum", "w", "t"), _node("Add", "input t", "y")]
    if chance.random() < 0.3:  # in a constant, not among the initialisers
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
        return _model(nodes)
    return _model(nodes, [tensor])


def _foreign(chance: random.Random) -> bytes:
    """Return operators of other or unknown domains that the exporter never writes."""
    domain = chance.choice(
        ("", "com.microsoft", "ai.onnx.ml", "ai.onnx.training", "evil", "com.microsoft.nchwc", "org.pytorch.aten")
    )
    kind = chance.choice(
        ("PyOp", "StringConcat", "RegexFullMatch", "SequenceAt", "Optional", "Scan", "EPContext", "TensorRTPlugin",
        "Tokenizer",
         "ImageDecoder", "RandomNormal", "Bernoulli", "QAttention", "BeamSearch", "MurmurHash3", "FusedConv", "ATen",
         "Relu"),
    )  # fmt: skip
    attributes = chance.choice(
        ({}, {"ep_cache_context": "../../canary/secret.bin", "embed_mode": 0, "main_context": 1}, {"to": 99})
    )
    return _model([_node(kind, "input", "y", domain=domain, **attributes)], domains=[domain] if domain else [])


def _wide(chance: random.Random) -> bytes:
    """Return very many nodes, a cycle, a duplicate name, or a very long name."""
    kind = chance.randrange(4)
    if kind == 0:
        count = chance.choice((1000, 20000))
        nodes = [_node("Neg", "input", "x0"), *(_node("Neg", f"x{i}", f"x{i + 1}") for i in range(count))]
        return _model([*nodes, _node("Neg", f"x{count}", "y")])
    if kind == 1:
        return _model([_node("Add", "input z", "y"), _node("Neg", "y", "z")])
    if kind == 2:
        return _model([_node("Neg", "input", "y"), _node("Abs", "input", "y")])
    return _model([_node("Neg", "input", "y", **{"x" * 100_000: 1})])


def _declared(chance: random.Random) -> bytes:
    """Return tensors whose declared sizes differ from their data."""
    from onnx import TensorProto

    tensor = TensorProto(name="w", data_type=chance.choice((1, 7, 8, 10, 16, 17, 21, 99, 0)))
    tensor.dims.extend(chance.choice(([2**40], [2**31, 2**31], [-1], [0], [3, 3], [2**62, 4], [1] * 500)))
    if chance.random() < 0.5:
        tensor.raw_data = bytes(chance.choice((0, 4, 36, 37)))
    else:
        tensor.float_data.extend([1.0] * chance.choice((0, 1, 9)))
    return _model([_node("Add", "input w", "y")], [tensor])


_HOSTILE: tuple[Callable[[random.Random], bytes], ...] = (
    _loop, _if, _functions, _growth, _growth, _external, _external, _external, _foreign, _foreign, _wide, _declared,
)  # fmt: skip
