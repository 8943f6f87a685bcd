"""Plans for the stand-in TensorRT that compute the same as the stand-in engines."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.doubles.fake_tensorrt import DTYPES, Plan
from tests.doubles.fakes import COMPUTE
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec

TYPES = {name: dtype for dtype, name in DTYPES.items()}


def plan_of(spec: EngineSpec) -> Plan:
    """Return a plan that computes what the stand-in engine of the same name computes."""

    def side(tensors: tuple[TensorSpec, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {t.name: (TYPES[t.dtype], tuple(-1 if size is None else size for size in t.shape)) for t in tensors}

    def compute(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return COMPUTE[spec.name](spec, inputs)

    def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
        zeros = {t.name: np.zeros(shapes[t.name], t.dtype) for t in spec.inputs}
        return {name: array.shape for name, array in compute(zeros).items()}

    ranges = {t.name: ((1, 400), (1, 16000), (1, 1 << 16)) for t in spec.inputs if None in t.shape}
    return Plan(side(spec.inputs), side(spec.outputs), compute, ranges, sizes)
