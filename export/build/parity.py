"""Compare an exported engine with its torch module on random inputs.

ONNX Runtime runs the graphs of every target: an export needs no other library, and the tests compare what the libraries
of the targets compute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from export.errors import ExportError
from export.onnx.engine_modules import Engine
from vexpress_rt.bundle.engine_spec import TIMESTEP, TIMESTEP_SINES, EngineSpec, TensorSpec
from vexpress_rt.bundle.timestep_sines import timestep_sines

Array = NDArray[Any]

# Largest relative error allowed, by the dtype of the matrices. float32: as for the goldens (docs/model/goldens.md).
# float16: rounding to eleven bits in a few hundred layers; the worst engine of the tiny preset reaches 4e-3. A bfloat16
# graph is computed in float32 (`export.onnx.float32_copy`), so that only constants such as time embeddings are rounded.
TOLERANCE = {"float32": 5e-5, "float16": 2e-2, "bfloat16": 1e-2}
DYNAMIC_SIZE = 8007  # samples of a recording; none of `to_onnx.PROBES`, at which the engine is traced
NAMED_INPUTS = {TIMESTEP: 499.0, "reference_attention_weight": 0.95, "audio_attention_weight": 3.0}


@dataclass(frozen=True)
class Parity:
    """The result of a comparison.

    Attributes:
        engine: Name of the engine.
        error: `relative_error` of the worst output.
        tolerance: Largest error allowed.
        seconds: Duration of both runs.
        shape: Description of the sizes that were compared.
    """

    engine: str
    error: float
    tolerance: float
    seconds: float
    shape: str

    def row(self) -> str:
        """Return the result as a line of the table whose first line is `HEADER`."""
        return f"{self.engine:18} {self.error:10.2e} {self.tolerance:10.0e}   {self.seconds:6.1f} s   {self.shape}"


HEADER = f"{'engine':18} {'error':>10} {'allowed':>10}   {'time':>8}   checked at"


def random_inputs(spec: EngineSpec, seed: int = 0) -> list[Array]:
    """Make inputs of the shapes and dtypes of a specification.

    Args:
        spec: Specification of the engine.
        seed: Seed of the random inputs.

    Returns:
        The inputs: standard normal values, uniform bytes for uint8, and typical values for the timestep or its sines
        and for attention weights.
    """
    rng = np.random.default_rng(seed)

    def make(tensor: TensorSpec) -> Array:
        shape = tuple(DYNAMIC_SIZE if size is None else size for size in tensor.shape)
        if tensor.name in NAMED_INPUTS:
            return np.full(shape, NAMED_INPUTS[tensor.name], tensor.dtype)
        if tensor.name == TIMESTEP_SINES:
            return timestep_sines(NAMED_INPUTS[TIMESTEP], shape[-1])
        if tensor.dtype == "uint8":
            return rng.integers(0, 256, shape, dtype=np.uint8)
        return rng.standard_normal(shape).astype(tensor.dtype)

    return [make(tensor) for tensor in spec.inputs]


def run_torch(engine: Engine, inputs: Sequence[Array]) -> list[Array]:
    """Run the torch module.

    Args:
        engine: The module, in float32.
        inputs: Inputs in the order of the specification. Floating-point inputs are cast to float32.

    Returns:
        The outputs in the order of the specification.
    """
    tensors = [torch.from_numpy(x) for x in inputs]
    with torch.inference_mode():
        result = engine(*(t if t.dtype == torch.uint8 else t.float() for t in tensors))
    outputs = [result] if isinstance(result, torch.Tensor) else list(result)
    return [t.numpy() for t in outputs]


def run_onnx(path: Path, spec: EngineSpec, inputs: Sequence[Array]) -> list[Array]:
    """Run the exported graph with ONNX Runtime on the CPU.

    Args:
        path: The ONNX file.
        spec: Specification of the engine.
        inputs: Inputs in the order of the specification.

    Returns:
        The outputs in the order of the specification.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_prepacking", "1")  # no second copy of the weights
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(
        session.run([t.name for t in spec.outputs], dict(zip((t.name for t in spec.inputs), inputs, strict=True)))
    )


def relative_error(found: Array, expected: Array) -> float:
    """Return the largest absolute difference over the largest absolute expected value.

    Args:
        found: Any shape.
        expected: The same shape.

    Returns:
        The error; infinite if the shapes differ or `found` has a value that is not finite. For bytes, a difference of 1
        counts as 0, because truncation may fall either way.
    """
    a, b = found.astype(np.float64), expected.astype(np.float64)
    if found.shape != expected.shape or not np.isfinite(a).all():
        return math.inf
    difference = np.abs(a - b)
    if found.dtype == np.uint8:
        difference = np.maximum(difference - 1, 0)
    return float(difference.max() / max(np.abs(b).max(), 1e-30))


def check(make_reference: Callable[[], Engine], path: Path, spec: EngineSpec, precision: str, shape: str) -> Parity:
    """Compare an ONNX file with its torch module. Memory holds only one of them at a time.

    Args:
        make_reference: Makes the torch module, in float32.
        path: The ONNX file.
        spec: Specification of the engine.
        precision: Dtype of the engine's matrices, a key of `TOLERANCE`.
        shape: Description of the sizes, for the result.

    Raises:
        ExportError: An output has a larger error than the tolerance of the precision.
    """
    start = time.perf_counter()
    inputs = random_inputs(spec)
    expected = run_torch(make_reference(), inputs)
    found = run_onnx(path, spec, inputs)
    errors = {t.name: relative_error(a, b) for t, a, b in zip(spec.outputs, found, expected, strict=True)}
    name, worst = max(errors.items(), key=lambda item: item[1])
    result = Parity(spec.name, worst, TOLERANCE[precision], time.perf_counter() - start, shape)
    if not worst <= result.tolerance:
        raise ExportError(
            f"engine {spec.name} differs from its torch module by {worst:.2e} of the largest value in {name}; "
            f"expected at most {result.tolerance:.0e}: report the checkpoint's configuration and the versions in use"
        )
    return result
