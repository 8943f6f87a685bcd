"""A TensorRT without a GPU: engines compute with Python functions on `fake_cuda`, and enforce TensorRT's rules.

* A context enqueues only when every open size is set, every tensor has an address with room for it, and the activation
  memory is large enough and was set after the last change of sizes.
* A run is captured only after a plain run since the last of these changes.
* Context, engine and runtime are destroyed in this order, and not while their work may run.

A broken rule that TensorRT reports returns TensorRT's result, with a message to the logger. A broken rule that it does
not notice is a `ViolationError`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from tests.doubles.fake_cuda import FakeCuda
from tests.doubles.fake_machine import POISON, KernelError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Arrays = Mapping[str, np.ndarray]
DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "uint16", "UINT8": "uint8", "INT64": "int64"}


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, message: str) -> None:
        raise AssertionError("a logger has to be derived from it")


@dataclass
class Plan:
    """The content of an engine file.

    Attributes:
        inputs, outputs: (data type, shape) by name; -1 for open sizes.
        compute: Computes output arrays from input arrays; bfloat16 is uint16.
        ranges: (smallest, typical, largest) shape of inputs with open sizes.
        sizes: Computes the shapes of open outputs from those of inputs.
        activations: Computes the bytes of activation memory from the shapes of inputs.
        weights: Bytes of an engine.
        persistent: Bytes of a context.
        on_host: Tensors that are not on the GPU.
        capturable: Whether `is_stream_capturable` returns true.
        spoils: Whether a capture fails nonetheless.
        failures: Messages with which the next calls of execute_async_v3 fail.
        broken: How many of the next runs fail on the GPU.
        runs: The number of runs so far.
    """

    inputs: dict[str, tuple[str, Shape]]
    outputs: dict[str, tuple[str, Shape]]
    compute: Callable[[Arrays], Arrays]
    ranges: dict[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)
    sizes: Callable[[Shapes], Shapes] = lambda shapes: {}
    activations: Callable[[Shapes], int] = lambda shapes: 1024
    weights: int = 256
    persistent: int = 256
    on_host: tuple[str, ...] = ()
    capturable: bool = True
    spoils: bool = False
    failures: list[str] = field(default_factory=list)
    broken: int = 0
    runs: int = 0


class FakeTensorRT:
    """A stand-in for the module `tensorrt`.

    Attributes:
        plans: The engines that can be loaded, by the content of their file.
    """

    __version__ = "11.4.0"
    ILogger = ILogger
    TensorIOMode = IntEnum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
    TensorLocation = IntEnum("TensorLocation", ["DEVICE", "HOST"])
    DataType = IntEnum("DataType", list(DTYPES))
    ExecutionContextAllocationStrategy = IntEnum(
        "ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"]
    )

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.plans: dict[bytes, Plan] = {}

    def write(self, path: Path, plan: Plan) -> Path:
        """Write an engine file."""
        content = f"engine {len(self.plans)}".encode()
        self.plans[content] = plan
        path.write_bytes(content)
        return path

    def Runtime(self, logger: ILogger) -> Runtime:
        assert isinstance(logger, ILogger)
        return Runtime(self, logger)


class Part:
    """A runtime, engine or context. It owns device memory, and must outlive the objects that were made from it."""

    def __init__(self, module: FakeTensorRT, logger: ILogger, size: int, parent: Part | None) -> None:
        self.module, self.cuda, self.logger = module, module.cuda, logger
        self.parent = None if parent is None else weakref.ref(parent)
        self.memory: int | None = None
        if size:
            error, self.memory = self.cuda.cudaMalloc(size)
            if error:
                raise MemoryError(f"Error Code 2: OutOfMemory (Requested size was {size} bytes.)")

    def fail(self, message: str) -> bool:
        self.logger.log(Severity.ERROR, message)
        return False

    def above(self) -> Any:
        """Return the object that this one was made from."""
        assert self.parent is not None
        parent = self.parent()
        if parent is None:
            self.cuda.machine.violate(
                f"{type(self).__name__} is used after the object that it was made from was destroyed"
            )
        return parent

    def __del__(self) -> None:
        if self.memory is not None:
            self.cuda.cudaFree(self.memory)
        if self.parent is not None:
            self.above()


class Runtime(Part):
    def __init__(self, module: FakeTensorRT, logger: ILogger) -> None:
        super().__init__(module, logger, 0, None)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Engine | None:
        plan = self.module.plans.get(bytes(serialized_engine))
        if plan is None:
            self.fail("Error Code 6: API Usage Error (The engine plan file is not compatible with this version)")
            return None
        try:
            return Engine(self, plan)
        except MemoryError as error:
            self.fail(str(error))
            return None


class Engine(Part):
    def __init__(self, runtime: Runtime, plan: Plan) -> None:
        self.plan = plan
        self.tensors = {**plan.inputs, **plan.outputs}
        super().__init__(runtime.module, runtime.logger, plan.weights, runtime)

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    @property
    def device_memory_size_v2(self) -> int:
        return self.plan.activations({name: self.largest(name) for name in self.plan.inputs})

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> Shape:
        return self.tensors[name][1]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.module.DataType[self.tensors[name][0]]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.module.TensorIOMode
        return modes.INPUT if name in self.plan.inputs else modes.OUTPUT

    def get_tensor_location(self, name: str) -> Any:
        locations = self.module.TensorLocation
        return locations.HOST if name in self.plan.on_host else locations.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]:
        assert profile_index == 0
        return list(self.plan.ranges[name])

    def create_execution_context(self, strategy: Any) -> Context | None:
        assert strategy == self.module.ExecutionContextAllocationStrategy.USER_MANAGED
        self.above()
        try:
            return Context(self)
        except MemoryError as error:
            self.fail(str(error))
            return None

    def largest(self, name: str) -> Shape:
        return self.plan.ranges[name][2] if name in self.plan.ranges else self.tensors[name][1]


class Context(Part):
    def __init__(self, engine: Engine) -> None:
        self.plan = engine.plan
        self.shapes: dict[str, Shape] = {n: shape for n, (_, shape) in engine.plan.inputs.items() if -1 not in shape}
        self.addresses: dict[str, int] = {}
        self.block = (0, 0)
        self.warm = False  # nothing changed since the last plain run
        self.last = (0, 0)  # place in a stream of the last run
        self.busy = threading.Lock()
        super().__init__(engine.module, engine.logger, engine.plan.persistent, engine)

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        least, _, most = self.plan.ranges[name]
        if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
            return self.fail(f"Static dimension mismatch while setting input shape for {name}")
        self.shapes[name], self.warm = tuple(shape), False
        return True

    def get_tensor_shape(self, name: str) -> Shape:
        if name in self.shapes:
            return self.shapes[name]
        shape = self.above().get_tensor_shape(name)
        if -1 in shape and len(self.shapes) == len(self.plan.inputs):
            return self.plan.sizes(self.shapes).get(name, shape)
        return shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.above().tensors or memory % 256:
            return self.fail(f"Invalid address for {name}")
        self.addresses[name], self.warm = memory, False
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        if len(self.shapes) < len(self.plan.inputs):
            self.fail("Shapes are not specified")
            return 0
        self.block, self.warm = (0, 0), False  # its division was for the sizes before
        return self.plan.activations(self.shapes)

    def set_device_memory(self, memory: int, size: int) -> None:
        needed = self.plan.activations(self.shapes)
        if size < needed or memory % 256:
            self.fail(f"Device memory of {size} bytes is too small, {needed} are needed")
            return
        self.block, self.warm = (memory, size), False

    def is_stream_capturable(self, stream_handle: int) -> bool:
        return self.plan.capturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not self.busy.acquire(blocking=False):
            self.cuda.machine.violate("a context is used by two threads at once")
        try:
            return self._execute(stream_handle)
        finally:
            self.busy.release()

    def _execute(self, stream: int) -> bool:
        tensors = self.above().tensors
        if missing := sorted(set(tensors) - set(self.addresses)):
            return self.fail(f"Address is not set for {missing}")
        if self.block == (0, 0) or self.block[1] < self.plan.activations(self.shapes):
            return self.fail("Device memory is not set since the last change, or too small")
        if self.plan.failures:
            return self.fail(self.plan.failures.pop(0))
        if self.cuda.capturing(stream) and not self.warm:
            self.cuda.spoil_capture(stream)
            return self.fail("Not captured: a plain run has to come first")
        if self.cuda.capturing(stream) and self.plan.spoils:
            self.cuda.spoil_capture(stream)
        spans = {name: (self.addresses[name], self._bytes(name)) for name in tensors}
        shapes = {name: self.get_tensor_shape(name) for name in tensors}
        writes = [spans[name] for name in self.plan.outputs]
        self.cuda.launch(
            stream, "engine", [spans[name] for name in self.plan.inputs], [*writes, self.block],
            lambda block=self.block: self._compute(spans, shapes, block),
        )  # fmt: skip
        self.last = (stream, self.cuda.machine.queue(stream).entered)
        self.warm = self.warm or not self.cuda.capturing(stream)
        return True

    def _compute(self, spans: Mapping[str, tuple[int, int]], shapes: Shapes, block: tuple[int, int]) -> None:
        view = self.cuda.machine.view
        self.plan.runs += 1
        if self.plan.broken:
            self.plan.broken -= 1
            raise KernelError
        view(*block)[:] = POISON + 1
        arrays = {n: view(*spans[n]).view(self._numpy(n)).reshape(shapes[n]).copy() for n in self.plan.inputs}
        for name, array in self.plan.compute(arrays).items():
            assert array.shape == shapes[name]
            assert array.dtype == self._numpy(name)
            view(*spans[name])[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def _numpy(self, name: str) -> str:
        return DTYPES[{**self.plan.inputs, **self.plan.outputs}[name][0]]

    def _bytes(self, name: str) -> int:
        return int(np.prod(self.get_tensor_shape(name))) * np.dtype(self._numpy(name)).itemsize

    def __del__(self) -> None:
        stream, place = self.last
        if place > self.cuda.machine.host.get(stream, 0):
            self.cuda.machine.violate("a context was destroyed while its work may run")
        super().__del__()
