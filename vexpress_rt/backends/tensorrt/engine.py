"""Engines that TensorRT, or TensorRT for RTX, runs on CUDA buffers. `tensorrt_library` knows how the two differ."""

from __future__ import annotations

import contextlib
import logging
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vexpress_rt.backends.base import Array
from vexpress_rt.backends.cuda import runtime as device
from vexpress_rt.backends.cuda.device_engine import DeviceEngine
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.backends.tensorrt.library import Library
from vexpress_rt.backends.tensorrt.messages import Messages
from vexpress_rt.backends.validation import check_interface
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec
from vexpress_rt.errors import BackendError
from vexpress_rt.utils.memory_errors import ran_out
from vexpress_rt.utils.native_calls import native_call

_log = logging.getLogger("vexpress_rt")


def load(
    path: str | Path,
    spec: EngineSpec | None,
    *,
    target: str = "tensorrt",
    executor: Executor | None = None,
    graphs: bool = True,
) -> TensorRTEngine:
    """The engine in the file `path`, on the GPU.

    spec: what its inputs and outputs must be; None takes them as they are in the file.
    target: the library, `tensorrt` or `tensorrt-rtx`.
    executor: runs it with others, one at a time, in shared activation memory; None makes one of its own.
    graphs: capture a CUDA graph in the second run and replay it from then on, where sizes are fixed and TensorRT can.
        One of our own for TensorRT for RTX, too: its built-in strategy is for sizes that vary.

    Raises BackendMissingError without the library or cuda-python; BackendError without a GPU, for a file that is
    missing, damaged, or built for another GPU or version, and when memory runs out; BundleDamagedError naming every
    input and output that is not as `spec` has it.
    """
    library = tensorrt_library.load(target)
    name = spec.name if spec is not None else Path(path).stem
    with contextlib.ExitStack() as undo:  # of what was made when something fails
        made = executor or undo.enter_context(contextlib.closing(Executor()))
        with _complaints(library, f"engine {name} cannot be loaded from {path}") as messages:
            loaded = _Loaded(library, Path(path), messages)
            undo.callback(loaded.close)
            found = _interface(name, loaded, library)
        if spec is not None:
            check_interface(path, found, spec)
        engine = TensorRTEngine(library, loaded, spec or found, made, owned=executor is None, graphs=graphs)
        undo.enter_context(engine)
        with _complaints(library, f"engine {name} cannot be loaded from {path}") as messages:
            engine.set_up(messages)
        undo.pop_all()
    return engine


class TensorRTEngine(DeviceEngine):
    """A TensorRT engine with an execution context; made by `load`.

    All tensors have their addresses before anything is enqueued, and keep them while sizes do. The context's memory is
    the executor's block; when that is replaced, or sizes change, the graph is dropped, and captured anew after one
    more plain run, in which TensorRT does what it puts off until then.
    """

    def __init__(
        self, library: Library, loaded: _Loaded, spec: EngineSpec, executor: Executor, *, owned: bool, graphs: bool
    ) -> None:
        super().__init__(spec, executor, owned=owned)
        self._library = library
        self._loaded = loaded
        self._static = all(None not in tensor.shape for tensor in (*spec.inputs, *spec.outputs))
        self._graphs = graphs and self._static
        self._graph: device.Graph | None = None
        self._warm = False
        self._generation = 0  # of the executor's block that the context was given; blocks count from 1
        self._bound: dict[str, tuple[tuple[int, ...], int]] = {}  # shape and address of the inputs in the context
        self._activation_bytes = 0

    @property
    def captured(self) -> bool:
        """Whether the next run replays a CUDA graph."""
        return self._graph is not None

    def set_up(self, messages: Messages) -> None:
        """Make the context; where sizes are fixed, take all memory, so that too little shows now."""
        with self._executor.lock:
            strategy = self._library.module.ExecutionContextAllocationStrategy.USER_MANAGED
            self._loaded.context = self._loaded.plan.create_execution_context(strategy)
            if self._loaded.context is None:
                raise BackendError(messages.text() or "TensorRT makes no execution context and does not say why")
            if self._static:
                for port in self._inputs.values():
                    port.fit(tuple(size or 0 for size in port.spec.shape), self._executor.compute)
                self._fit(messages)

    def _prepare(self) -> None:
        with self._complaints() as messages:
            self._fit(messages)

    def _fit(self, messages: Messages) -> None:
        """Give the context what the inputs' ports have come to, and its memory."""
        bound = {name: (port.shape, port.pointer) for name, port in self._inputs.items()}
        if bound != self._bound:
            self._bound = {}  # until all of it has succeeded
            self._generation = 0  # binding divides the memory anew, so that the context has to be given it again
            self._forget_graph()
            self._bind(messages)
            self._bound = bound
        block = self._executor.reserve(self._activation_bytes, f"activations of engine {self.spec.name}")
        if self._generation != self._executor.generation:
            self._forget_graph()
            self._loaded.context.set_device_memory(block.pointer, block.bytes)
            if messages.errors:
                raise BackendError(messages.text())
            self._generation = self._executor.generation

    def _bind(self, messages: Messages) -> None:
        loaded = self._loaded
        for name, port in self._inputs.items():
            varies = -1 in _sizes(loaded.plan.get_tensor_shape(name))
            if varies and not loaded.context.set_input_shape(name, port.shape):
                least, _, most = (_sizes(size) for size in loaded.plan.get_tensor_profile_shape(name, 0))
                raise BackendError(f"input {name} is {port.shape}; expected from {least} to {most} {messages.text()}")
        for name, port in self._outputs.items():
            shape = _sizes(loaded.context.get_tensor_shape(name))
            if -1 in shape:
                raise BackendError(f"the size of output {name}, {shape}, depends on values; expected on sizes alone")
            port.fit(shape, self._executor.compute)
        for name, port in (*self._inputs.items(), *self._outputs.items()):
            if not loaded.context.set_tensor_address(name, port.pointer):
                raise BackendError(f"{name} cannot be bound: {messages.text()}")
        needed = int(loaded.context.update_device_memory_size_for_shapes())
        largest = int(loaded.plan.device_memory_size_v2)
        self._activation_bytes = max(needed, largest) if self._static else needed or largest

    def _launch(self) -> dict[str, Array]:
        with self._complaints() as messages:
            if self._graph is None and self._warm and self._graphs:
                self._graph = self._capture(messages)
            if self._graph is not None:
                self._graph.launch(self._executor.compute)
            else:
                self._enqueue(messages)
                self._warm = True
        return {}

    def _enqueue(self, messages: Messages) -> None:
        with native_call():
            enqueued = self._loaded.context.execute_async_v3(self._executor.compute.handle)
        if not enqueued:
            raise BackendError(messages.text() or "TensorRT does not say why")

    def _capture(self, messages: Messages) -> device.Graph | None:
        """A run as a graph, or None, for good, where that does not work."""
        capturable = getattr(self._loaded.context, "is_stream_capturable", None)  # TensorRT 10 cannot tell
        why = "TensorRT says that it cannot be captured"
        if capturable is None or capturable(self._executor.compute.handle):
            try:
                return self._record(messages)
            except BackendError as error:
                why = str(error)
        _log.warning("engine %s runs without a CUDA graph, which costs some speed: %s", self.spec.name, why)
        messages.errors.clear()
        self._graphs = False
        return None

    def _record(self, messages: Messages) -> device.Graph:
        stream = self._executor.compute
        stream.begin_capture()
        try:
            self._enqueue(messages)
        except BaseException:
            with contextlib.suppress(BackendError):  # CUDA's complaint about the same
                stream.end_capture().close()
            raise
        return stream.end_capture()

    def _forget_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()  # it does not run: whoever replaced the block has waited for all that entered
        self._graph, self._warm = None, False

    def _release(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._graph = None
        self._loaded.close()

    def _complaints(self) -> contextlib.AbstractContextManager[Messages]:
        return _complaints(self._library, f"engine {self.spec.name} failed")


@contextlib.contextmanager
def _complaints(library: Library, what: str) -> Iterator[Messages]:
    """Names the engine in every BackendError from inside, and tells memory that ran out from other failures."""
    with library.collect() as messages:
        try:
            yield messages
        except BackendError as error:
            if ran_out(error) and device.REMEDY not in str(error):
                raise device.out_of_memory(what, None, str(error)) from error
            raise BackendError(f"{what}: {error}") from error


class _Loaded:
    """What TensorRT made of a file: a context, the engine that it needs, and the runtime that this needs.

    They go in that order: on `close`, and, since Python drops attributes as they came, also when that is not called.
    Nothing else holds on to them, not even a local variable: an exception would keep it.
    """

    def __init__(self, library: Library, path: Path, messages: Messages) -> None:
        self.context: Any = None
        self.plan: Any = None
        self.runtime: Any = library.module.Runtime(library.logger)
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self.plan = _deserialize(self.runtime, content)
        except (OSError, ValueError) as error:  # ValueError: empty
            raise BackendError(str(error)) from error
        if self.plan is None:
            remedy = f"build the bundle again on this machine with `python -m export.build --target {library.target}`"
            if unsupported_reason := library.unsupported_reason(*device.name_and_capability()):
                remedy = f"{unsupported_reason}, or use provider='auto'"
            raise BackendError(f"{library.name} refuses it ({messages.text() or 'without saying why'}): {remedy}")

    def close(self) -> None:
        """Free it all."""
        self.context = None
        self.plan = None
        self.runtime = None


def _interface(name: str, loaded: _Loaded, library: Library) -> EngineSpec:
    """What the engine says of its inputs and outputs; sizes that it leaves open become None."""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(loaded.plan.num_io_tensors):
        tensor = loaded.plan.get_tensor_name(index)
        if loaded.plan.get_tensor_location(tensor) != library.module.TensorLocation.DEVICE:
            raise BackendError(f"{tensor} is a tensor in the host's memory; expected all on the GPU: build it again")
        shape = _sizes(loaded.plan.get_tensor_shape(tensor))
        side = inputs if loaded.plan.get_tensor_mode(tensor) == library.module.TensorIOMode.INPUT else outputs
        side.append(
            TensorSpec(
                tensor,
                tuple(str(size) for size in shape),
                tuple(None if size < 0 else size for size in shape),
                library.dtype_name(loaded.plan.get_tensor_dtype(tensor)),
            )
        )
    return EngineSpec(name, tuple(inputs), tuple(outputs))


def _sizes(dims: Any) -> tuple[int, ...]:
    """A shape as TensorRT gives it; -1 stands for a size that is open."""
    return tuple(int(size) for size in dims)


def _deserialize(runtime: Any, content: mmap.mmap) -> Any:
    with native_call():
        return runtime.deserialize_cuda_engine(content)
