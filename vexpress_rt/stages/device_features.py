"""Features of guiders on a GPU: summed there, without a copy to the host."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vexpress_rt.backends.base import Tensor
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.executor import CudaTensor, Executor, tensor_bytes
from vexpress_rt.bundle.engine_spec import TensorSpec
from vexpress_rt.native.device_kernels import Kernels


class DeviceFeatures:
    """`FeatureOperations` on a GPU, with the same values as `HostFeatures`."""

    def __init__(self, executor: Executor, kernels: Kernels) -> None:
        """Run on the GPU of the guiders, with its executor and kernels."""
        self._executor = executor
        self._kernels = kernels

    def weighted_sum(self, features: Sequence[Tensor], weights: Sequence[float]) -> CudaTensor:
        """See `FeatureOperations`. The host does not wait."""
        executor, inputs = self._executor, [_on_gpu(feature) for feature in features]
        first, second = inputs[0], inputs[1] if len(inputs) > 1 else None
        with executor.enqueuing() as compute:
            out = executor.pool.acquire(first.bytes, "a pose feature", compute)
            for tensor in inputs:
                compute.wait(tensor.ready)
            self._kernels.weighted_sum(
                first.buffer,
                None if second is None else second.buffer,
                out,
                rows=first.shape[0],
                values=math.prod(first.shape[1:]),
                weights=weights,
                dtype=first.dtype,
                stream=compute,
            )
            done = compute.record()
        for tensor in inputs:
            tensor.read_until(done)
        return CudaTensor(first.shape, first.dtype, out, done, executor.pool)

    def zeros(self, spec: TensorSpec) -> CudaTensor:
        """See `FeatureOperations`. The host waits for the copy."""
        shape = tuple(size or 0 for size in spec.shape)
        size, executor = tensor_bytes(shape, spec.dtype), self._executor
        with runtime.pinned(size, "a pose feature") as host:
            host.array[:] = 0
            with executor.enqueuing() as compute:
                buffer = executor.pool.acquire(size, "a pose feature", compute)
                runtime.copy_from_host(buffer, host.array, compute)
                done = compute.record()
            done.synchronize()
        return CudaTensor(shape, spec.dtype, buffer, done, executor.pool)


def _on_gpu(feature: Tensor) -> CudaTensor:
    assert isinstance(feature, CudaTensor)
    return feature
