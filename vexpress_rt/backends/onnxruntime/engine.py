"""Engines in ONNX files, run by ONNX Runtime on the CPU. The only module that imports onnxruntime."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from vexpress_rt.backends.base import Array, Tensor
from vexpress_rt.backends.validation import (
    check_arrays,
    check_interface,
    check_outputs,
    error_text,
    only_input,
    refuse_closed,
)
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec
from vexpress_rt.config import check_threads
from vexpress_rt.errors import BackendError, BackendMissingError
from vexpress_rt.utils.cpus import limit_threads
from vexpress_rt.utils.memory_budget import whole_memory
from vexpress_rt.utils.memory_errors import REMEDY, ran_out
from vexpress_rt.utils.native_calls import native_call
from vexpress_rt.utils.project_links import EXPORTER

_ARENA = threading.Lock()  # ONNX Runtime refuses a second arena, and several threads load engines
_SILENT = 4  # severity "fatal": errors are raised, and need not be printed as well
_DTYPES = {"float": "float32", "double": "float64"}  # the others have NumPy's names in ONNX Runtime too


def load(
    path: str | Path, spec: EngineSpec | None, *, threads: int | None = None, share_weights: bool = False
) -> OnnxEngine:
    """Load the engine in an ONNX file, to run on the CPU.

    Args:
        path: The file.
        spec: The inputs and outputs that the engine must have; None accepts those of the file, as for the face
            detector.
        threads: CPU threads of one operator, limited to the CPUs that this process may use; None for one per core that
            it may use (`cpus.limit_threads`).
        share_weights: Read weights from their memory-mapped file, so that engines with the same file share them.
            Otherwise each engine has its own copy, packed for the kernels.

    Raises:
        BackendMissingError: ONNX Runtime is not installed.
        BackendError: The file cannot be loaded.
        BundleDamagedError: Inputs or outputs differ from `spec`; the message names every one.
        ConfigError: The number of threads is impossible.
    """
    check_threads(threads)
    library = import_library()
    name = engine_name(path, spec)
    options = cpu_options(library, threads, share_weights=share_weights)
    session = make_session(library, path, name, options, ["CPUExecutionProvider"])
    found = read_interface(session, path, name, spec)
    return OnnxEngine(library, session, spec or found, checked=spec is not None)


def version() -> str:
    """Return ONNX Runtime's version.

    Raises:
        BackendMissingError: ONNX Runtime is not installed.
    """
    return str(import_library().__version__)


class OnnxEngine:
    """An ONNX Runtime session on the CPU, checked against its specification; made by `load`.

    It is an `Engine` and a context manager.
    """

    def __init__(self, library: Any, session: Any, spec: EngineSpec, *, checked: bool) -> None:
        self.spec = spec
        self._library = library
        self._session = session
        self._checked = checked  # released graphs may declare output sizes that differ from the real ones

    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool = False) -> dict[str, Array]:
        """See `Engine.run`. On the CPU, `keep_on_device` has no effect: outputs are arrays."""
        if self._session is None:
            refuse_closed(self.spec)
        feed = check_arrays(self.spec, inputs)
        names = [tensor.name for tensor in self.spec.outputs]
        options = self._library.RunOptions()
        try:
            with native_call(partial(setattr, options, "terminate", True)):
                arrays = self._session.run(names, feed, options)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise _backend_error(f"engine {self.spec.name} failed", error) from error
        outputs: dict[str, Array] = dict(zip(names, arrays, strict=True))
        if self._checked:
            check_outputs(self.spec, outputs)
        return outputs

    def run_positional(self, array: Array) -> list[Array]:
        """See `Engine.run_positional`."""
        return list(self.run({only_input(self.spec): array}).values())

    def close(self) -> None:
        """Free the session. Closing twice is allowed."""
        self._session = None

    def __enter__(self) -> OnnxEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def engine_name(path: str | Path, spec: EngineSpec | None) -> str:
    """Return the name of an engine.

    Args:
        path: The engine's file, which names the engine if there is no specification.
        spec: The specification, or None.
    """
    return spec.name if spec is not None else Path(path).stem


def import_library(package: str = "onnxruntime") -> Any:
    """Import ONNX Runtime with its telemetry off.

    From version 1.29 on, official builds send telemetry on Linux and macOS too, with an identifier and a queue in the
    user's cache folder. The API can only turn it off after it has begun; the environment variable is read earlier,
    at the first import.

    Args:
        package: What to install if it is missing, as an argument of `pip install`.

    Raises:
        BackendMissingError: ONNX Runtime cannot be imported.
        BackendError: Memory ran out during the import.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except (ImportError, OSError) as error:  # OSError: installed, but one of its shared libraries does not load
        if ran_out(error):
            text = error_text(error)
            raise BackendError(f"memory ran out while ONNX Runtime was loaded ({text}): {REMEDY}") from error
        raise BackendMissingError(
            f"ONNX Runtime, which runs this bundle's engines, cannot be imported ({error}): "
            f"install it with `pip install {package}`"
        ) from error
    onnxruntime.disable_telemetry_events()  # on Windows, where the variable has no effect
    return onnxruntime


def make_session(library: Any, path: str | Path, name: str, options: Any, providers: list[Any]) -> Any:
    """Create an InferenceSession with exactly these execution providers.

    Args:
        library: ONNX Runtime.
        path: The ONNX file.
        name: The engine's name, for messages.
        options: The session's options.
        providers: Execution providers, the preferred one first.

    Raises:
        BackendError: The file cannot be loaded, or memory ran out.
    """
    try:
        with native_call():
            return library.InferenceSession(str(path), options, providers=providers, enable_fallback=False)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise _backend_error(f"engine {name} cannot be loaded from {path}", error) from error


def read_interface(session: Any, path: str | Path, name: str, spec: EngineSpec | None) -> EngineSpec:
    """Read the inputs and outputs of a session, and check them.

    Args:
        session: The session.
        path: The ONNX file, for messages.
        name: The engine's name.
        spec: The inputs and outputs to expect; None skips the check.

    Returns:
        The inputs and outputs of the session.

    Raises:
        BundleDamagedError: They differ from `spec`.
    """
    found = EngineSpec(name, _tensor_specs(session.get_inputs()), _tensor_specs(session.get_outputs()))
    if spec is not None:
        check_interface(path, found, spec)
    return found


def cpu_options(library: Any, threads: int | None, *, share_weights: bool = False) -> Any:
    """Return options of a session on the CPU.

    All sessions share one arena of memory, because engines run one after another: the small model needs 406 MB for 50 s
    of speech instead of 559 MB, at the same speed. The arena belongs to the process: it keeps its memory for the next
    engines after these are closed, and grows to at most `memory_limit`. Sessions of other code in this process use
    it only if they opt in.

    Args:
        library: ONNX Runtime.
        threads: As in `load`.
        share_weights: As in `load`.
    """
    with _ARENA:
        _make_arena(library)
    options = session_options(library, threads)
    options.add_session_config_entry("session.use_env_allocators", "1")
    if share_weights:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


@functools.cache
def _make_arena(library: Any) -> None:
    """Create the arena, once per process."""
    kind, use = library.OrtAllocatorType.ORT_ARENA_ALLOCATOR, library.OrtMemType.DEFAULT
    limit = library.OrtArenaCfg({"max_mem": memory_limit()})
    library.create_and_register_allocator(library.OrtMemoryInfo("Cpu", kind, 0, use), limit)


def memory_limit() -> int:
    """Return the limit in bytes of the memory of all engines on the CPU: 7/8 of the machine's or container's memory.

    An engine that allocates more, for example one of an untrusted bundle, fails with a message. Otherwise the kernel
    would kill this process or another one.
    """
    return (whole_memory() or 0) // 8 * 7  # 0: no limit


def session_options(library: Any, threads: int | None) -> Any:
    """Return options of a session on any device. Options not listed here keep ONNX Runtime's defaults.

    * `session.set_denormal_as_zero` stays off. It changes the floating-point mode of the calling thread for good, and
      only the process's first session sets it for all worker threads, so that results would depend on scheduling. It
      brought no speed.
    * Memory patterns are off. Once an input size has come twice, a run with patterns allocates all its memory again in
      one piece, while the arena keeps the pieces of the first run (150 MB for a minute in the small model's audio
      encoder). They brought no speed on the CPU.
    * Worker threads sleep while they wait, instead of spinning, within a run and between runs. Each engine has threads
      of its own; spinning ones take the cores that other engines, streams and processes need (`benchmarks.cpu.crowd`).
    * The number of threads is always set. By default ONNX Runtime counts all cores of the machine, whatever the
      process's affinity and quota, and binds each thread to a core, where it waits while another process runs there.

    Args:
        library: ONNX Runtime.
        threads: As in `load`.
    """
    options = library.SessionOptions()
    options.log_severity_level = _SILENT
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = limit_threads(threads).threads
    return options


def _tensor_specs(nodes: Iterable[Any]) -> tuple[TensorSpec, ...]:
    """Return the inputs or outputs of a session; sizes that the graph leaves open become None."""
    return tuple(
        TensorSpec(
            node.name,
            tuple(str(size) for size in node.shape),
            tuple(size if isinstance(size, int) else None for size in node.shape),
            _dtype(node.type),
        )
        for node in nodes
    )


def _dtype(kind: str) -> str:
    """Return NumPy's name, `float32` for `tensor(float)`; other types than tensors keep ONNX Runtime's name."""
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(inner, inner)


def _backend_error(what: str, error: Exception) -> BackendError:
    """Return the error to raise for an exception of ONNX Runtime."""
    text = error_text(error)
    if ran_out(error):
        return BackendError(
            f"{what}: memory ran out ({text}): close other programs; if the audio encoder failed, give the speech in "
            f"shorter parts, else build a bundle with smaller --height and --width, or fewer --frames {EXPORTER}"
        )
    return BackendError(f"{what}: {text}")
