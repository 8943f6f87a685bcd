"""Engines in ONNX files, run by ONNX Runtime on a GPU. Sessions are bound to memory and a stream of the executor."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np

from vexpress_rt.backends.base import Array
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.device_engine import DeviceEngine, Port
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.onnxruntime.engine import (
    engine_name,
    import_library,
    make_session,
    read_interface,
    session_options,
)
from vexpress_rt.backends.validation import check_outputs, error_text
from vexpress_rt.bundle.engine_spec import EngineSpec
from vexpress_rt.config import check_threads
from vexpress_rt.errors import BackendError, BackendMissingError
from vexpress_rt.utils.memory_errors import ran_out
from vexpress_rt.utils.native_calls import native_call

PROVIDER = "CUDAExecutionProvider"
_PACKAGE = "'onnxruntime-gpu[cuda,cudnn]'"
# The two packages share a folder: the one installed last wins, and uninstalling either breaks the other.
_REMEDY = f"`pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install {_PACKAGE}`"
_log = logging.getLogger("vexpress_rt")


def load(
    path: str | Path, spec: EngineSpec | None, *, threads: int | None = None, executor: Executor | None = None
) -> OnnxCudaEngine:
    """Load the engine in an ONNX file, to run on the GPU.

    Args:
        path: The file.
        spec: The inputs and outputs that the engine must have; None accepts those of the file, as for the face
            detector.
        threads: CPU threads of operators that the GPU lacks; see `engine.load`.
        executor: The executor to share with other engines; None creates one for this engine.

    Raises:
        BackendMissingError: There is no ONNX Runtime that can use a GPU, or no cuda-python.
        BackendError: The file cannot be loaded, there is no GPU, or its memory ran out.
        BundleDamagedError: Inputs or outputs differ from `spec`; the message names every one.
        ConfigError: The number of threads is impossible.
    """
    check_threads(threads)
    library = check_installed()
    name = engine_name(path, spec)
    with contextlib.ExitStack() as undo:  # closes everything if a later step fails
        used = executor or undo.enter_context(contextlib.closing(Executor()))
        session = make_session(library, path, name, session_options(library, threads), _execution_providers(used))
        _check_session(session, name)
        found = read_interface(session, path, name, spec)
        engine = OnnxCudaEngine(library, session, spec or found, used, owned=executor is None, checked=spec is not None)
        undo.enter_context(engine)
        engine.set_up()
        undo.pop_all()
    return engine


def check_installed() -> Any:
    """Return an ONNX Runtime that can use a GPU, with CUDA's libraries loaded from installed packages.

    This does not check that there is a GPU.

    Raises:
        BackendMissingError: ONNX Runtime is missing, or was built without CUDA.
    """
    library = import_library(_PACKAGE)
    if PROVIDER not in library.get_available_providers():
        raise BackendMissingError(
            f"the ONNX Runtime {library.__version__} that is installed runs on the CPU alone: "
            f"{_REMEDY}, or use provider='cpu'"
        )
    with contextlib.redirect_stdout(io.StringIO()) as printed:  # ONNX Runtime prints the libraries that it misses
        library.preload_dlls()
    if printed.getvalue():
        _log.debug("ONNX Runtime: %s", " ".join(printed.getvalue().split()))
    return library


def _execution_providers(executor: Executor) -> list[Any]:
    """Return a session's execution providers: CUDA on the executor's stream, the CPU for operators that CUDA lacks.

    TF32 is off, because it keeps only 10 of float32's 23 mantissa bits. Memory grows by the requested amount; by
    default it would double, in each of a bundle's sessions.
    """
    options = {
        "device_id": "0",
        "user_compute_stream": str(executor.compute.handle),
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
    }
    return [(PROVIDER, options), "CPUExecutionProvider"]


def _check_session(session: Any, name: str) -> None:
    """Raise BackendError if a session fell back from CUDA to the CPU, which ONNX Runtime does silently."""
    if PROVIDER not in (found := session.get_providers()):
        raise BackendError(
            f"engine {name} was to run on CUDA and got {', '.join(found)}: ONNX Runtime does not find CUDA or cuDNN"
            f": {_REMEDY}, or use provider='cpu'"
        )


class OnnxCudaEngine(DeviceEngine):
    """An ONNX Runtime session on a GPU, bound once to memory at fixed addresses; made by `load`.

    Outputs of a size that is only known after the run are always returned as arrays.

    Args:
        library: ONNX Runtime.
        session: The session.
        spec: Its inputs and outputs.
        executor: The executor that runs it.
        owned: Whether to close the executor with the engine.
        checked: Whether to compare outputs with their declared sizes, which may be wrong in released graphs.
    """

    def __init__(
        self, library: Any, session: Any, spec: EngineSpec, executor: Executor, *, owned: bool, checked: bool
    ) -> None:
        super().__init__(spec, executor, owned=owned)
        self._session = session
        self._binding = session.io_binding()
        self._options = library.RunOptions()
        self._checked = checked
        self._unsized = [t.name for t in spec.outputs if not checked or None in t.shape]
        for name in self._unsized:
            del self._outputs[name]
        self._bound: dict[str, tuple[tuple[int, ...], int]] = {}

    def set_up(self) -> None:
        """Allocate memory for tensors of fixed size, so that loading fails if memory is short.

        Raises:
            BackendError: The GPU's memory ran out.
        """
        if not self._unsized:  # by default a run waits for the stream; events do so here
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        for name in self._unsized:
            self._binding.bind_output(name, "cpu")
        for port in (*self._outputs.values(), *self._inputs.values()):
            if None not in port.spec.shape:
                port.fit(tuple(size or 0 for size in port.spec.shape), self._executor.compute)
        for name, port in self._outputs.items():
            self._binding.bind_output(name, "cuda", 0, _element_type(port), port.shape, port.pointer)

    def _prepare(self) -> None:
        for name, port in self._inputs.items():
            if (bound := (port.shape, port.pointer)) != self._bound.get(name):
                self._binding.bind_input(name, "cuda", 0, _element_type(port), port.shape, port.pointer)
                self._bound[name] = bound
        for name in self._unsized:  # bound again for each call, which would otherwise overwrite the last call's outputs
            self._binding.bind_output(name, "cpu")

    def _launch(self) -> dict[str, Array]:
        name = self.spec.name
        try:
            with native_call():
                self._session.run_with_iobinding(self._binding, self._options)
            values = dict(zip((*self._unsized, *self._outputs), self._binding.get_outputs(), strict=True))
            arrays = {key: values[key].numpy() for key in self._unsized}
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            if ran_out(error):
                raise runtime.out_of_memory(f"engine {name} failed", None, error_text(error)) from error
            raise BackendError(f"engine {name} failed: {error_text(error)}") from error
        if self._checked:
            check_outputs(EngineSpec(name, (), tuple(t for t in self.spec.outputs if t.name in arrays)), arrays)
        return arrays

    def _release(self) -> None:
        self._binding = None
        self._session = None


def _element_type(port: Port) -> Any:
    return np.dtype(port.spec.dtype).type
