"""Engines on a GPU, whatever library runs them: how their inputs get there, and their outputs back."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, overload

import numpy as np

from vexpress_rt.backends.base import Array, DeviceTensor, Tensor
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.buffer_pool import BufferPool
from vexpress_rt.backends.cuda.executor import CudaTensor, Executor, becomes_array, tensor_bytes
from vexpress_rt.backends.validation import check_inputs, only_input, refuse_closed
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec
from vexpress_rt.errors import BackendError
from vexpress_rt.utils.closable import Closable


class Port:
    """An input or output of an engine: device memory at an address that stays, and pinned memory on the host's side.

    DeviceTensors are copied to and from that address within the GPU, because a captured CUDA graph has it frozen. At
    full size that is some 60 MB a step of the denoiser, tens of microseconds, and the portrait's keys and values, which
    every step has in common, are copied once.
    """

    def __init__(self, engine: str, spec: TensorSpec) -> None:
        self.spec = spec
        self.shape: tuple[int, ...] = ()
        self._purpose = f"{spec.name} of engine {engine}"
        self._buffer: runtime.Buffer | None = None
        self._pinned: runtime.Pinned | None = None
        self._holds = 0  # serial of the DeviceTensor whose values are in the buffer; 0: something else

    @property
    def pointer(self) -> int:
        """Address of the device memory; `fit` comes first."""
        return self._open_buffer().pointer

    @property
    def bytes(self) -> int:
        """Of the tensor."""
        return tensor_bytes(self.shape, self.spec.dtype)

    def fit(self, shape: tuple[int, ...], stream: runtime.Stream) -> bool:
        """Make room for a tensor of this shape; whether that changed the address. `stream`: whose work uses it."""
        self.shape = shape
        if self._buffer is not None and self._buffer.bytes >= self.bytes:
            return False
        if self._buffer is not None:
            stream.synchronize()
            self._buffer.close()
            self._buffer, self._holds = None, 0
        self._buffer = runtime.allocate(self.bytes, self._purpose)
        return True

    def put(self, tensor: Tensor, stream: runtime.Stream) -> None:
        """Enter a copy of an array, or of a DeviceTensor unless its values are here already."""
        buffer = self._open_buffer()
        if not isinstance(tensor, CudaTensor):
            assert isinstance(tensor, np.ndarray)
            self._holds = 0
            staging = self._staging()
            staging.view(tensor.dtype).reshape(tensor.shape)[...] = tensor
            runtime.copy_from_host(buffer, staging, stream)
        elif tensor.serial != self._holds:
            stream.wait(tensor.ready)
            runtime.copy_on_device(buffer, tensor.buffer, self.bytes, stream)
            self._holds = tensor.serial

    def keep(self, pool: BufferPool, stream: runtime.Stream) -> runtime.Buffer:
        """Enter a copy to memory of its own, taken from `pool`."""
        kept = pool.acquire(self.bytes, self._purpose, stream)
        runtime.copy_on_device(kept, self._open_buffer(), self.bytes, stream)
        return kept

    def fetch(self, stream: runtime.Stream) -> None:
        """Enter a copy to the host."""
        runtime.copy_to_host(self._staging(), self._open_buffer(), stream)

    def array(self) -> Array:
        """What `fetch` brought, once its stream is past it."""
        return self._staging().view(self.spec.dtype).reshape(self.shape).copy()

    def close(self) -> None:
        """Free its memory; streams are past its last use."""
        for memory in (self._buffer, self._pinned):
            if memory is not None:
                memory.close()
        self._buffer = self._pinned = None

    def _open_buffer(self) -> runtime.Buffer:
        assert self._buffer is not None
        return self._buffer

    def _staging(self) -> Array:
        if self._pinned is None or len(self._pinned.array) < self.bytes:
            if self._pinned is not None:
                self._pinned.close()
                self._pinned = None
            self._pinned = runtime.pinned(self.bytes, self._purpose)
        return self._pinned.array[: self.bytes]


class DeviceEngine(Closable, ABC):
    """An `Engine` on a GPU. Calls from several threads are done one after another.

    executor: runs it, with others.  owned: whether to close that with the engine.
    """

    def __init__(self, spec: EngineSpec, executor: Executor, *, owned: bool) -> None:
        self.spec = spec
        self._executor = executor
        self._owned = owned
        self._inputs = {tensor.name: Port(spec.name, tensor) for tensor in spec.inputs}
        self._outputs = {tensor.name: Port(spec.name, tensor) for tensor in spec.outputs}
        self._uploaded: runtime.Event | None = None
        self._lock = threading.Lock()
        self._open = True

    @abstractmethod
    def _prepare(self) -> None:
        """Make ready for inputs of the shapes that the ports have by now: outputs' ports, addresses, activations."""

    @abstractmethod
    def _launch(self) -> dict[str, Array]:
        """Enter the computation; gives outputs that have no port, as arrays that are complete."""

    @abstractmethod
    def _release(self) -> None:
        """Free what the library holds."""

    @overload
    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: Literal[False] = False) -> dict[str, Array]: ...

    @overload
    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool) -> Mapping[str, Tensor]: ...

    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool = False) -> Mapping[str, Tensor]:
        """Outputs by name: arrays, or, at once, DeviceTensors that are still being computed.

        Raises BackendError naming every input that is missing, unknown, or of another shape or dtype, for an engine or
        a DeviceTensor that was closed, for exhausted memory, and for errors of CUDA or the library. The engine can be
        run again afterwards.
        """
        with self._lock:
            if not self._open:
                refuse_closed(self.spec)
            feed = self._check(inputs, keep_on_device)
            try:
                with self._executor.lock:
                    left, kept, done = self._enter(feed, keep_on_device)
                names = [tensor.name for tensor in self.spec.outputs]
                there = kept if keep_on_device else self._fetch([name for name in names if name not in left], done)
                return {name: left[name] if name in left else there[name] for name in names}
            except BaseException as error:
                self._executor.synchronize()  # nothing may still read or write what the next call uses
                if isinstance(error, BackendError) and f"engine {self.spec.name}" not in str(error):
                    raise BackendError(f"engine {self.spec.name} failed: {error}") from error
                raise

    def run_positional(self, array: Array) -> list[Array]:
        """All outputs in the engine's order, for an engine with one input. Raises as `run` does."""
        outputs = self.run({only_input(self.spec): array})
        return [outputs[tensor.name] for tensor in self.spec.outputs]

    def close(self) -> None:
        """Free the engine and its memory, but not DeviceTensors that it gave. Closing twice is allowed."""
        with self._lock, self._executor.lock:
            if not self._open:
                return
            self._open = False
            self._executor.synchronize()
            self._release()
            for port in (*self._inputs.values(), *self._outputs.values()):
                port.close()
            self._uploaded = None
            if self._owned:
                self._executor.close()

    def _check(self, inputs: Mapping[str, Tensor], keep_on_device: bool) -> dict[str, Tensor]:
        name = self.spec.name
        if not keep_on_device and (lost := [t.describe() for t in self.spec.outputs if not becomes_array(t.dtype)]):
            raise BackendError(
                f"engine {name} gives {', '.join(lost)}, which NumPy lacks: run it with keep_on_device=True"
            )
        feed = check_inputs(self.spec, inputs)
        for key, tensor in feed.items():
            if isinstance(tensor, CudaTensor):
                tensor.check_open()
            elif isinstance(tensor, DeviceTensor):
                raise BackendError(f"input {key} of engine {name} is not on the GPU: pass what its host() gives")
        return feed

    def _enter(
        self, feed: Mapping[str, Tensor], keep_on_device: bool
    ) -> tuple[dict[str, Array], dict[str, Tensor], runtime.Event]:
        """Let a whole call enter the compute stream: outputs without a port, DeviceTensors of the others, the end."""
        compute = self._executor.compute
        if self._uploaded is not None:
            self._uploaded.synchronize()  # pinned memory of the call before may be written only now
        for name, tensor in feed.items():
            self._inputs[name].fit(tensor.shape, compute)
        self._prepare()
        for name, tensor in feed.items():
            self._inputs[name].put(tensor, compute)
        self._uploaded = compute.record()
        for tensor in feed.values():
            if isinstance(tensor, CudaTensor):
                tensor.read_until(self._uploaded)
        left = self._launch()
        buffers: dict[str, runtime.Buffer] = {}  # by name, so that a failure drops none before `run` has settled
        for name, port in self._outputs.items() if keep_on_device else ():
            if name not in left:
                buffers[name] = port.keep(self._executor.pool, compute)
        done = compute.record()
        kept: dict[str, Tensor] = {}
        for name, buffer in buffers.items():
            port = self._outputs[name]
            kept[name] = CudaTensor(port.shape, port.spec.dtype, buffer, done, self._executor.pool)
        return left, kept, done

    def _fetch(self, names: list[str], done: runtime.Event) -> dict[str, Array]:
        """Outputs as arrays. The copies have a stream of their own: other engines compute meanwhile."""
        copies = self._executor.copies
        copies.wait(done)
        for name in names:
            self._outputs[name].fetch(copies)
        copies.record().synchronize()
        return {name: self._outputs[name].array() for name in names}
