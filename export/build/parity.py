"""Does an exported engine compute what its torch module computes? Random inputs through both."""

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
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec

Array = NDArray[Any]

# Largest error allowed, relative to the largest value of an output: for float32 that of the goldens; for float16 what
# eleven bits leave after a few hundred layers (the tiny preset's worst engine shows 4e-3). A graph in bfloat16 is
# computed in float32 for the check (`export.widen`): what is left is the rounding of constants such as time embeddings.
TOLERANCE = {"float32": 5e-5, "float16": 2e-2, "bfloat16": 1e-2}
CLIP_SAMPLES = 8007  # of a dynamic input: a length that the trace has not seen
NAMED_INPUTS = {"timestep": 499.0, "reference_attention_weight": 0.95, "audio_attention_weight": 3.0}


@dataclass(frozen=True)
class Parity:
    """How far an engine is off.

    error: largest difference over the largest value, of the worst output.  seconds: of both runs.
    shape: what was checked.
    """

    engine: str
    error: float
    tolerance: float
    seconds: float
    shape: str

    def row(self) -> str:
        """One line of the parity table."""
        return f"{self.engine:18} {self.error:10.2e} {self.tolerance:10.0e}   {self.seconds:6.1f} s   {self.shape}"


HEADER = f"{'engine':18} {'error':>10} {'allowed':>10}   {'time':>8}   checked at"


def random_inputs(spec: EngineSpec, seed: int = 0) -> list[Array]:
    """Inputs of the specification's shapes and dtypes: normal, or uniform bytes; weights and timestep as in use."""
    rng = np.random.default_rng(seed)

    def make(tensor: TensorSpec) -> Array:
        shape = tuple(CLIP_SAMPLES if size is None else size for size in tensor.shape)
        if tensor.name in NAMED_INPUTS:
            return np.full(shape, NAMED_INPUTS[tensor.name], tensor.dtype)
        if tensor.dtype == "uint8":
            return rng.integers(0, 256, shape, dtype=np.uint8)
        return rng.standard_normal(shape).astype(tensor.dtype)

    return [make(tensor) for tensor in spec.inputs]


def run_torch(engine: Engine, inputs: Sequence[Array]) -> list[Array]:
    """Outputs of the torch module, in float32 where the inputs are floating point."""
    tensors = [torch.from_numpy(x) for x in inputs]
    with torch.inference_mode():
        result = engine(*(t if t.dtype == torch.uint8 else t.float() for t in tensors))
    outputs = [result] if isinstance(result, torch.Tensor) else list(result)
    return [t.numpy() for t in outputs]


def run_onnx(path: Path, spec: EngineSpec, inputs: Sequence[Array]) -> list[Array]:
    """Outputs of the exported graph, on ONNX Runtime's CPU kernels."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_prepacking", "1")  # no second copy of the weights
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(
        session.run([t.name for t in spec.outputs], dict(zip((t.name for t in spec.inputs), inputs, strict=True)))
    )


def relative_error(found: Array, expected: Array) -> float:
    """Largest difference over the largest expected value; infinite where `found` is not finite.

    Of bytes, one step is free: truncation may fall either way.
    """
    a, b = found.astype(np.float64), expected.astype(np.float64)
    if found.shape != expected.shape or not np.isfinite(a).all():
        return math.inf
    difference = np.abs(a - b)
    if found.dtype == np.uint8:
        difference = np.maximum(difference - 1, 0)
    return float(difference.max() / max(np.abs(b).max(), 1e-30))


def check(make_reference: Callable[[], Engine], path: Path, spec: EngineSpec, precision: str, shape: str) -> Parity:
    """Compare the ONNX file at `path`, of `spec`, with the float32 torch module that `make_reference` makes.

    precision: dtype of the engine's matrices.  shape: for the record. The module is gone before the graph is loaded, so
    that memory holds one of them. Raises ExportError if an output is further off than the precision's tolerance, or not
    finite.
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
