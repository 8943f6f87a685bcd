"""ONNX Runtime on a GPU: sessions bound to our own device memory and stream. `onnxruntime` makes them."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any

import numpy as np

from vexpress_rt.backends.base import Array
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.device_engine import DeviceEngine, Port
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.validation import check_outputs, told
from vexpress_rt.bundle.engine_spec import EngineSpec
from vexpress_rt.errors import BackendError, BackendMissingError
from vexpress_rt.utils.memory_errors import ran_out
from vexpress_rt.utils.shutdown import native_call

PROVIDER = "CUDAExecutionProvider"
# The two packages share a folder: whichever was installed last wins, and uninstalling either breaks the other.
_REMEDY = "`pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install 'onnxruntime-gpu[cuda,cudnn]'`"
_log = logging.getLogger("vexpress_rt")


def check_library(library: Any) -> None:
    """Find CUDA's libraries among installed packages. Raises BackendMissingError for an ONNX Runtime without CUDA."""
    if PROVIDER not in library.get_available_providers():
        raise BackendMissingError(
            f"the ONNX Runtime {library.__version__} that is installed runs on the CPU alone: "
            f"{_REMEDY}, or use provider='cpu'"
        )
    with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints what it does not find
        library.preload_dlls()
    if said.getvalue():
        _log.debug("ONNX Runtime: %s", " ".join(said.getvalue().split()))


def providers(executor: Executor) -> list[Any]:
    """What to make a session with: CUDA on the executor's stream, the CPU for operators that CUDA lacks.

    TF32 is off, since it keeps ten bits of a float32's fraction. Memory grows by what is asked for: by default it
    doubles, in each of a bundle's sessions.
    """
    options = {
        "device_id": "0",
        "user_compute_stream": str(executor.compute.handle),
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
    }
    return [(PROVIDER, options), "CPUExecutionProvider"]


def check_session(session: Any, name: str) -> None:
    """Raise BackendError if a session that was to use CUDA does not: ONNX Runtime goes on without, and says nothing."""
    if PROVIDER not in (found := session.get_providers()):
        raise BackendError(
            f"engine {name} was to run on CUDA and got {', '.join(found)}: ONNX Runtime does not find CUDA or cuDNN"
            f": {_REMEDY}, or use provider='cpu'"
        )


class OnnxCudaEngine(DeviceEngine):
    """An ONNX Runtime session on a GPU, bound once to memory whose addresses stay.

    Outputs whose size the specification leaves open come as arrays, also when asked to stay on the GPU.

    checked: whether outputs keep to their declared sizes; released graphs may not.
    """

    def __init__(
        self, library: Any, session: Any, spec: EngineSpec, executor: Executor, *, owned: bool, checked: bool
    ) -> None:
        super().__init__(spec, executor, owned=owned)
        self._session = session
        self._binding = session.io_binding()
        self._options = library.RunOptions()
        self._checked = checked
        self._varying = [t.name for t in spec.outputs if not checked or None in t.shape]
        for name in self._varying:
            del self._outputs[name]
        self._bound: dict[str, tuple[tuple[int, ...], int]] = {}

    def set_up(self) -> None:
        """Take memory for what has a fixed size, so that too little shows now. Raises BackendError."""
        if not self._varying:  # our events say when it is done; without this it waits for the whole stream
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        for name in self._varying:
            self._binding.bind_output(name, "cpu")
        for port in (*self._outputs.values(), *self._inputs.values()):
            if None not in port.spec.shape:
                port.fit(tuple(size or 0 for size in port.spec.shape), self._executor.compute)
        for name, port in self._outputs.items():
            self._binding.bind_output(name, "cuda", 0, _element(port), port.shape, port.pointer)

    def _prepare(self) -> None:
        for name, port in self._inputs.items():
            if (bound := (port.shape, port.pointer)) != self._bound.get(name):
                self._binding.bind_input(name, "cuda", 0, _element(port), port.shape, port.pointer)
                self._bound[name] = bound
        for name in self._varying:  # anew, since it would write into what it made for the call before
            self._binding.bind_output(name, "cpu")

    def _launch(self) -> dict[str, Array]:
        name = self.spec.name
        try:
            with native_call():
                self._session.run_with_iobinding(self._binding, self._options)
            values = dict(zip((*self._varying, *self._outputs), self._binding.get_outputs(), strict=True))
            arrays = {key: values[key].numpy() for key in self._varying}
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            if ran_out(error):
                raise runtime.out_of_memory(f"engine {name} failed", None, told(error)) from error
            raise BackendError(f"engine {name} failed: {told(error)}") from error
        if self._checked:
            check_outputs(EngineSpec(name, (), tuple(t for t in self.spec.outputs if t.name in arrays)), arrays)
        return arrays

    def _release(self) -> None:
        self._binding = None
        self._session = None


def _element(port: Port) -> Any:
    return np.dtype(port.spec.dtype).type
