"""The base class of engines on a GPU: it uploads inputs, runs the engine and downloads outputs."""

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
    """An input or output of an engine: device memory at a fixed address, and pinned host memory for copies.

    DeviceTensors are copied to and from that address within the GPU, because captured CUDA graphs contain it. At full
    size, each step of the denoiser copies some 60 MB, which takes tens of microseconds. The portrait's keys and values,
    which all steps share, are copied once.

    Args:
        engine: The engine's name, for messages.
        spec: The input or output.
    """

    def __init__(self, engine: str, spec: TensorSpec) -> None:
        self.spec = spec
        self.shape: tuple[int, ...] = ()
        self._purpose = f"{spec.name} of engine {engine}"
        self._buffer: runtime.Buffer | None = None
        self._pinned: runtime.Pinned | None = None
        self._held_serial = 0  # `serial` of the CudaTensor whose values the buffer holds; 0: other values

    @property
    def pointer(self) -> int:
        """Address of the device memory. Call `fit` first."""
        return self._open_buffer().pointer

    @property
    def bytes(self) -> int:
        """Size of the tensor in bytes."""
        return tensor_bytes(self.shape, self.spec.dtype)

    def fit(self, shape: tuple[int, ...], stream: runtime.Stream) -> bool:
        """Make room for a tensor.

        Args:
            shape: The tensor's shape.
            stream: The stream whose work uses the memory.

        Returns:
            Whether the address changed.

        Raises:
            BackendError: The GPU's memory ran out.
        """
        self.shape = shape
        if self._buffer is not None and self._buffer.bytes >= self.bytes:
            return False
        if self._buffer is not None:
            stream.synchronize()
            self._buffer.close()
            self._buffer, self._held_serial = None, 0
        # Outside of any pool: captured graphs contain the address, so the memory stays while they do, and no later
        # tensor of a pool may get it meanwhile.
        self._buffer = runtime.allocate(self.bytes, self._purpose)
        return True

    def upload(self, tensor: Tensor, stream: runtime.Stream) -> None:
        """Enqueue a copy of a tensor to the device memory, unless that holds its values already.

        Args:
            tensor: An array or CudaTensor of the shape that `fit` received.
            stream: The stream that copies.
        """
        buffer = self._open_buffer()
        if not isinstance(tensor, CudaTensor):
            assert isinstance(tensor, np.ndarray)
            self._held_serial = 0
            staging = self._staging()
            staging.view(tensor.dtype).reshape(tensor.shape)[...] = tensor
            runtime.copy_from_host(buffer, staging, stream)
        elif tensor.serial != self._held_serial:
            stream.wait(tensor.ready)
            runtime.copy_on_device(buffer, tensor.buffer, self.bytes, stream)
            self._held_serial = tensor.serial

    def copy(self, pool: BufferPool, stream: runtime.Stream) -> runtime.Buffer:
        """Enqueue a copy to memory of the pool.

        Args:
            pool: The pool.
            stream: The stream that copies.

        Returns:
            The copy.

        Raises:
            BackendError: The GPU's memory ran out.
        """
        copied = pool.acquire(self.bytes, self._purpose, stream)
        runtime.copy_on_device(copied, self._open_buffer(), self.bytes, stream)
        return copied

    def download(self, stream: runtime.Stream) -> None:
        """Enqueue a copy to the host.

        Args:
            stream: The stream on which the engine ran.
        """
        runtime.copy_to_host(self._staging(), self._open_buffer(), stream)

    def array(self) -> Array:
        """Return the array that `download` copied. Its stream must have passed that copy."""
        return self._staging().view(self.spec.dtype).reshape(self.shape).copy()

    def close(self) -> None:
        """Free the memory. All streams must have passed its last use."""
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
    """An `Engine` on a GPU. Calls from several threads run one after another.

    Args:
        spec: Its inputs and outputs.
        executor: The executor that runs this engine and others.
        owned: Whether to close the executor with the engine.
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
        """Prepare a run with the shapes of the input ports: fit output ports, bind addresses, reserve memory."""

    @abstractmethod
    def _launch(self) -> dict[str, Array]:
        """Enqueue the computation; return outputs that have no port, as complete arrays."""

    @abstractmethod
    def _release(self) -> None:
        """Free the library's objects."""

    @overload
    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: Literal[False] = False) -> dict[str, Array]: ...

    @overload
    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool) -> Mapping[str, Tensor]: ...

    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool = False) -> Mapping[str, Tensor]:
        """See `Engine.run`. After an error the engine can be run again."""
        with self._lock:
            if not self._open:
                refuse_closed(self.spec)
            feed = self._check(inputs, keep_on_device)
            try:
                with self._executor.lock:
                    arrays, tensors, done = self._enqueue_call(feed, keep_on_device)
                names = [tensor.name for tensor in self.spec.outputs]
                if not keep_on_device:
                    arrays |= self._download([name for name in names if name not in arrays], done)
                return {name: arrays[name] if name in arrays else tensors[name] for name in names}
            except BaseException as error:
                self._executor.synchronize()  # before the next call reuses memory of this one
                if isinstance(error, BackendError) and f"engine {self.spec.name}" not in str(error):
                    raise BackendError(f"engine {self.spec.name} failed: {error}") from error
                raise

    def run_positional(self, array: Array) -> list[Array]:
        """See `Engine.run_positional`."""
        outputs = self.run({only_input(self.spec): array})
        return [outputs[tensor.name] for tensor in self.spec.outputs]

    def close(self) -> None:
        """See `Engine.close`."""
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
                f"engine {name} returns {', '.join(lost)}, which NumPy lacks: run it with keep_on_device=True"
            )
        feed = check_inputs(self.spec, inputs)
        for key, tensor in feed.items():
            if isinstance(tensor, CudaTensor):
                tensor.check_open()
            elif isinstance(tensor, DeviceTensor):
                raise BackendError(f"input {key} of engine {name} is not on the GPU: pass the array of its numpy()")
        return feed

    def _enqueue_call(
        self, feed: Mapping[str, Tensor], keep_on_device: bool
    ) -> tuple[dict[str, Array], dict[str, Tensor], runtime.Event]:
        """Enqueue a whole call on the compute stream.

        Return outputs without a port, CudaTensors of the others if they are kept, and the event at the end.
        """
        compute = self._executor.compute
        if self._uploaded is not None:
            self._uploaded.synchronize()  # only then may the pinned memory of the last call be overwritten
        for name, tensor in feed.items():
            self._inputs[name].fit(tensor.shape, compute)
        self._prepare()
        for name, tensor in feed.items():
            self._inputs[name].upload(tensor, compute)
        self._uploaded = compute.record()
        for tensor in feed.values():
            if isinstance(tensor, CudaTensor):
                tensor.read_until(self._uploaded)
        arrays = self._launch()
        buffers: dict[str, runtime.Buffer] = {}  # keeps them until `run` has synchronized after a failure
        for name, port in self._outputs.items() if keep_on_device else ():
            if name not in arrays:
                buffers[name] = port.copy(self._executor.pool, compute)
        done = compute.record()
        tensors: dict[str, Tensor] = {}
        for name, buffer in buffers.items():
            port = self._outputs[name]
            tensors[name] = CudaTensor(port.shape, port.spec.dtype, buffer, done, self._executor.pool)
        return arrays, tensors, done

    def _download(self, names: list[str], done: runtime.Event) -> dict[str, Array]:
        """Return outputs as arrays. The copies run on a separate stream, so that other engines compute meanwhile."""
        copies = self._executor.copies
        copies.wait(done)
        for name in names:
            self._outputs[name].download(copies)
        copies.record().synchronize()
        return {name: self._outputs[name].array() for name in names}
