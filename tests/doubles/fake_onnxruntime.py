"""An ONNX Runtime with CUDA and without a GPU: sessions compute on the CPU, on `fake_cuda`'s memory.

Bindings enforce ONNX Runtime's rules: addresses on the right device with room for the tensor, and every input bound
before a run. An output that a run allocated is overwritten by the next run unless it is bound anew.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as real

from tests.doubles.fake_cuda import FakeCuda

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
ASYNCHRONOUS = "disable_synchronize_execution_providers"


class FakeOnnxRuntime:
    """A stand-in for the module `onnxruntime`.

    Attributes:
        available: Execution providers that it was built with.
        usable: Whether CUDA's libraries are found.
        weights: Device memory of a session, bytes.
        failures: Messages with which the next runs fail.
        sessions: The CUDA options of each session.
        preloaded: The number of calls of `preload_dlls`.
    """

    __version__ = "1.31.0"
    SessionOptions = real.SessionOptions
    RunOptions = real.RunOptions

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.available = [CUDA, CPU]
        self.usable = True
        self.weights = 256
        self.failures: list[str] = []
        self.sessions: list[dict[str, str]] = []
        self.preloaded = 0

    def disable_telemetry_events(self) -> None:
        pass

    def get_available_providers(self) -> list[str]:
        return self.available

    def preload_dlls(self) -> None:
        print("Failed to load libcudnn.so.9")
        self.preloaded += 1

    def InferenceSession(self, path: str, options: Any, *, providers: list[Any], enable_fallback: bool) -> Session:
        assert self.preloaded
        assert not enable_fallback
        return Session(self, real.InferenceSession(path, options, providers=[CPU]), providers)


class Session:
    def __init__(self, module: FakeOnnxRuntime, session: real.InferenceSession, providers: list[Any]) -> None:
        self.memory: int | None = None
        self.module, self.session = module, session
        (name, options), fallback = providers
        assert (name, fallback) == (CUDA, CPU)
        self.stream = int(options["user_compute_stream"])
        error, self.memory = module.cuda.cudaMalloc(module.weights)
        if error:
            raise RuntimeError(f"Failed to allocate memory for requested buffer of size {module.weights}")
        module.sessions.append(options)
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

    def get_providers(self) -> list[str]:
        return [CUDA, CPU] if self.module.usable else [CPU]

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding, options: real.RunOptions) -> None:
        cuda = self.module.cuda
        if self.module.failures:
            raise RuntimeError(self.module.failures.pop(0))
        assert set(binding.inputs) == {value.name for value in self.get_inputs()}
        spans = {name: span for name, (span, _, _) in (binding.inputs | binding.outputs).items() if span is not None}

        def run() -> None:
            arrays = {
                name: cuda.machine.view(*span).view(dtype).reshape(shape).copy()
                for name, (span, dtype, shape) in binding.inputs.items()
            }
            for name, array in zip(binding.outputs, self.session.run(list(binding.outputs), arrays), strict=True):
                binding.give(name, array)

        reads = [spans[name] for name in binding.inputs]
        writes = [spans[name] for name in binding.outputs if name in spans]
        cuda.launch(self.stream, "session", reads, writes, run)
        try:
            waits = options.get_run_config_entry(ASYNCHRONOUS) != "1"
        except RuntimeError:  # it has no such entry
            waits = True
        if waits:
            (error,) = cuda.cudaStreamSynchronize(self.stream)
            if error:
                raise RuntimeError(f"CUDA failure {error}")

    def __del__(self) -> None:
        if self.memory is not None:
            self.module.cuda.cudaFree(self.memory)


class Binding:
    """Bound inputs and outputs: (address and bytes, dtype, shape) by name.

    A run allocates an output without an address on the host.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.inputs: dict[str, tuple[Any, Any, Any]] = {}
        self.outputs: dict[str, tuple[Any, Any, Any]] = {}
        self.values: dict[str, np.ndarray] = {}

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: tuple[int, ...], buffer_ptr: int
    ) -> None:
        self.inputs[name] = self._place(device_type, device_id, element_type, shape, buffer_ptr)

    def bind_output(
        self, name: str, device_type: str = "cpu", device_id: int = 0, element_type: Any = None,
        shape: tuple[int, ...] | None = None, buffer_ptr: int | None = None,
    ) -> None:  # fmt: skip
        self.values.pop(name, None)
        if buffer_ptr is None:
            assert device_type == "cpu"
            self.outputs[name] = (None, None, None)
        else:
            self.outputs[name] = self._place(device_type, device_id, element_type, shape, buffer_ptr)

    def get_outputs(self) -> list[Any]:
        """Return the outputs in the order of binding."""
        return [SimpleNamespace(numpy=lambda name=name: self.values[name]) for name in self.outputs]

    def give(self, name: str, array: np.ndarray) -> None:
        span, dtype, shape = self.outputs[name]
        if span is None:
            assert name not in self.values or self.values[name].shape == array.shape, "bind it anew"
            self.values[name] = array
        else:
            assert (array.dtype, array.shape) == (np.dtype(dtype), shape)
            self.session.module.cuda.machine.view(*span)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def _place(self, device_type: str, device_id: int, element_type: Any, shape: Any, pointer: int) -> Any:
        assert (device_type, device_id) == ("cuda", 0)
        size = int(np.prod(shape)) * np.dtype(element_type).itemsize
        self.session.module.cuda.machine.find(pointer, size, "device")
        return (pointer, size), element_type, tuple(shape)
