"""What an engine depends on, as hashes and version numbers; and the interface of a finished ONNX file."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from vexpress_rt import __version__
from vexpress_rt.errors import VExpressError
from vexpress_rt.specs import TensorSpec

SOURCES = Path(__file__).parent


def combine(*parts: object) -> str:
    """sha256 over the representations of `parts`."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()


@cache
def of_code() -> str:
    """sha256 over the sources that decide what an exported graph looks like, and the versions of their libraries."""
    files = [
        *SOURCES.glob("models/*.py"),
        *(SOURCES / f"{n}.py" for n in ("engines", "trace", "lower", "graph", "to_onnx")),
    ]
    sources = [path.read_bytes() for path in sorted(files)]
    return combine(*sources, sorted(versions().items()))


def package_version() -> str:
    """Of vexpress_rt."""
    return __version__


def versions() -> dict[str, str]:
    """Of Python and the libraries that have a part in an export."""
    libraries = ("torch", "transformers", "onnx", "onnxruntime", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}


def interface(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an ONNX file, as found. Raises VExpressError if it is none."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's DecodeError is no public name
        raise VExpressError(f"{path} is no ONNX file ({error}): fetch it again") from error
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_tensor(v) for v in graph.input if v.name not in initializers)
    return inputs, tuple(_tensor(v) for v in graph.output)


def _tensor(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    letters = [d.dim_param or str(d.dim_value) for d in kind.shape.dim]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return TensorSpec(value.name, tuple(letters), tuple(sizes), dtype)
