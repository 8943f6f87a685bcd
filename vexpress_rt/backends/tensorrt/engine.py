"""Engines run by TensorRT or TensorRT for RTX; `library` hides the differences between the two."""

from __future__ import annotations

import contextlib
import logging
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vexpress_rt.backends.base import Array
from vexpress_rt.backends.cuda import runtime
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
from vexpress_rt.utils.project_links import EXPORTER

_log = logging.getLogger("vexpress_rt")


def load(
    path: str | Path,
    spec: EngineSpec | None,
    *,
    target: str = "tensorrt",
    executor: Executor | None = None,
    graphs: bool = True,
) -> TensorRTEngine:
    """Load a plan, to run on the GPU.

    Args:
        path: The plan's file.
        spec: The inputs and outputs that the engine must have; None accepts those of the file.
        target: The library: `tensorrt` or `tensorrt-rtx`.
        executor: The executor to share with other engines; None creates one for this engine.
        graphs: Capture a CUDA graph in the second run and replay it from then on, if sizes are fixed and TensorRT
            supports it. TensorRT for RTX is treated alike, because its own graph strategy is for varying sizes.

    Raises:
        BackendMissingError: The library or cuda-python is not installed.
        BackendError: There is no GPU; the file is missing, damaged, or built for another GPU or version; or memory ran
            out.
        BundleDamagedError: Inputs or outputs differ from `spec`; the message names every one.
    """
    library = tensorrt_library.load(target)
    name = spec.name if spec is not None else Path(path).stem
    with contextlib.ExitStack() as undo:  # closes everything if a later step fails
        used = executor or undo.enter_context(contextlib.closing(Executor()))
        with _named_errors(library, f"engine {name} cannot be loaded from {path}") as messages:
            plan = _Plan(library, Path(path), messages)
            undo.callback(plan.close)
            found = _read_interface(name, plan, library)
        if spec is not None:
            check_interface(path, found, spec)
        engine = TensorRTEngine(library, plan, spec or found, used, owned=executor is None, graphs=graphs)
        undo.enter_context(engine)
        with _named_errors(library, f"engine {name} cannot be loaded from {path}") as messages:
            engine.set_up(messages)
        undo.pop_all()
    return engine


class TensorRTEngine(DeviceEngine):
    """A TensorRT engine with an execution context; made by `load`.

    All tensors have their addresses before anything is enqueued, and keep them as long as sizes stay the same. The
    context's memory is the executor's block. When that is replaced, or sizes change, the CUDA graph is dropped, and
    captured again after one more run without it, in which TensorRT does its deferred work.
    """

    def __init__(
        self, library: Library, plan: _Plan, spec: EngineSpec, executor: Executor, *, owned: bool, graphs: bool
    ) -> None:
        super().__init__(spec, executor, owned=owned)
        self._library = library
        self._plan = plan
        self._static = all(None not in tensor.shape for tensor in (*spec.inputs, *spec.outputs))
        self._graphs = graphs and self._static
        self._graph: runtime.Graph | None = None
        self._warm = False
        self._generation = 0  # of the executor's block that the context was given; blocks count from 1
        self._bound: dict[str, tuple[tuple[int, ...], int]] = {}  # shape and address of the context's inputs
        self._activation_bytes = 0

    @property
    def captured(self) -> bool:
        """Whether the next run replays a CUDA graph."""
        return self._graph is not None

    def set_up(self, messages: Messages) -> None:
        """Make the context; where sizes are fixed, allocate all memory, so that loading fails if memory is short.

        Args:
            messages: Collects the library's messages.

        Raises:
            BackendError: The library cannot create a context, or the GPU's memory ran out.
        """
        with self._executor.lock:
            strategy = self._library.module.ExecutionContextAllocationStrategy.USER_MANAGED
            self._plan.context = self._plan.engine.create_execution_context(strategy)
            if self._plan.context is None:
                raise BackendError(messages.text() or "TensorRT makes no execution context and does not say why")
            if self._static:
                for port in self._inputs.values():
                    port.fit(tuple(size or 0 for size in port.spec.shape), self._executor.compute)
                self._set_up_context(messages)

    def _prepare(self) -> None:
        with self._named_errors() as messages:
            self._set_up_context(messages)

    def _set_up_context(self, messages: Messages) -> None:
        """Pass the shapes and addresses of ports to the context, and its activation memory."""
        bound = {name: (port.shape, port.pointer) for name, port in self._inputs.items()}
        if bound != self._bound:
            self._bound = {}  # until binding has succeeded
            self._generation = 0  # binding divides the memory differently, so the context needs it again
            self._forget_graph()
            self._bind(messages)
            self._bound = bound
        block = self._executor.reserve(self._activation_bytes, f"activations of engine {self.spec.name}")
        if self._generation != self._executor.generation:
            self._forget_graph()
            self._plan.context.set_device_memory(block.pointer, block.bytes)
            if messages.errors:
                raise BackendError(messages.text())
            self._generation = self._executor.generation

    def _bind(self, messages: Messages) -> None:
        plan = self._plan
        for name, port in self._inputs.items():
            varies = -1 in _sizes(plan.engine.get_tensor_shape(name))
            if varies and not plan.context.set_input_shape(name, port.shape):
                least, _, most = (_sizes(size) for size in plan.engine.get_tensor_profile_shape(name, 0))
                raise BackendError(f"input {name} is {port.shape}; expected from {least} to {most} {messages.text()}")
        for name, port in self._outputs.items():
            shape = _sizes(plan.context.get_tensor_shape(name))
            if -1 in shape:
                raise BackendError(f"the size of output {name}, {shape}, depends on values; expected on sizes alone")
            port.fit(shape, self._executor.compute)
        for name, port in (*self._inputs.items(), *self._outputs.items()):
            if not plan.context.set_tensor_address(name, port.pointer):
                raise BackendError(f"{name} cannot be bound: {messages.text()}")
        needed = int(plan.context.update_device_memory_size_for_shapes())
        largest = int(plan.engine.device_memory_size_v2)
        self._activation_bytes = max(needed, largest) if self._static else needed or largest

    def _launch(self) -> dict[str, Array]:
        with self._named_errors() as messages:
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
            enqueued = self._plan.context.execute_async_v3(self._executor.compute.handle)
        if not enqueued:
            raise BackendError(messages.text() or "TensorRT does not say why")

    def _capture(self, messages: Messages) -> runtime.Graph | None:
        """Capture a run as a CUDA graph. If that fails, return None and do not try again."""
        capturable = getattr(self._plan.context, "is_stream_capturable", None)  # TensorRT 10 lacks it
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

    def _record(self, messages: Messages) -> runtime.Graph:
        stream = self._executor.compute
        stream.begin_capture()
        try:
            self._enqueue(messages)
        except BaseException:
            with contextlib.suppress(BackendError):  # CUDA's error for the same cause
                stream.end_capture().close()
            raise
        return stream.end_capture()

    def _forget_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()  # it does not run: all enqueued work was done before the block was replaced
        self._graph, self._warm = None, False

    def _release(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._graph = None
        self._plan.close()

    def _named_errors(self) -> contextlib.AbstractContextManager[Messages]:
        return _named_errors(self._library, f"engine {self.spec.name} failed")


@contextlib.contextmanager
def _named_errors(library: Library, what: str) -> Iterator[Messages]:
    """Prefix every BackendError of a `with` block with the engine, and recognize exhausted memory among them.

    Yields the library's messages.
    """
    with library.collect() as messages:
        try:
            yield messages
        except BackendError as error:
            if ran_out(error) and runtime.REMEDY not in str(error):
                raise runtime.out_of_memory(what, None, str(error)) from error
            raise BackendError(f"{what}: {error}") from error


class _Plan:
    """TensorRT's objects for a plan: an execution context, the engine that it needs, and the runtime that this needs.

    Destroy context, engine and runtime in that order: `close` does so, and so does Python, which frees attributes in
    the order in which they were set. Do not keep other references, not even in a local variable: the traceback of an
    exception would keep the object alive.
    """

    def __init__(self, library: Library, path: Path, messages: Messages) -> None:
        self.context: Any = None
        self.engine: Any = None
        self.runtime: Any = library.module.Runtime(library.logger)
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self.engine = _deserialize(self.runtime, content)
        except (OSError, ValueError) as error:  # ValueError: empty
            raise BackendError(str(error)) from error
        if self.engine is None:
            command = f"python -m export.build --target {library.target}"
            remedy = f"build the bundle again on this machine with `{command}` {EXPORTER}"
            if unsupported_reason := library.unsupported_reason(*runtime.name_and_capability()):
                remedy = f"{unsupported_reason}, or use provider='auto'"
            raise BackendError(f"{library.name} refuses it ({messages.text() or 'without saying why'}): {remedy}")

    def close(self) -> None:
        """Free the objects."""
        self.context = None
        self.engine = None
        self.runtime = None


def _read_interface(name: str, plan: _Plan, library: Library) -> EngineSpec:
    """Return the inputs and outputs of an engine; sizes that it leaves open become None."""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(plan.engine.num_io_tensors):
        tensor = plan.engine.get_tensor_name(index)
        if plan.engine.get_tensor_location(tensor) != library.module.TensorLocation.DEVICE:
            raise BackendError(
                f"{tensor} is a tensor in the host's memory; expected all on the GPU: build it again {EXPORTER}"
            )
        shape = _sizes(plan.engine.get_tensor_shape(tensor))
        side = inputs if plan.engine.get_tensor_mode(tensor) == library.module.TensorIOMode.INPUT else outputs
        side.append(
            TensorSpec(
                tensor,
                tuple(str(size) for size in shape),
                tuple(None if size < 0 else size for size in shape),
                library.dtype_name(plan.engine.get_tensor_dtype(tensor)),
            )
        )
    return EngineSpec(name, tuple(inputs), tuple(outputs))


def _sizes(dims: Any) -> tuple[int, ...]:
    """Return a TensorRT shape as a tuple; -1 stands for an open size."""
    return tuple(int(size) for size in dims)


def _deserialize(trt_runtime: Any, content: mmap.mmap) -> Any:
    with native_call():
        return trt_runtime.deserialize_cuda_engine(content)
