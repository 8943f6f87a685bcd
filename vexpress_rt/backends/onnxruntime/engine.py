"""Engines as ONNX files, run by ONNX Runtime on the CPU or a GPU. The only file that imports onnxruntime."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from vexpress_rt.backends.base import Array, Resident, Tensor
from vexpress_rt.backends.cuda.executor import Executor
from vexpress_rt.backends.onnxruntime import cuda_engine
from vexpress_rt.backends.validation import (
    check_inputs,
    check_interface,
    check_outputs,
    only_input,
    refuse_closed,
    told,
)
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec
from vexpress_rt.config import check_choice, check_threads
from vexpress_rt.errors import BackendError, BackendMissingError
from vexpress_rt.utils.cpus import limit_threads
from vexpress_rt.utils.memory_budget import whole_memory
from vexpress_rt.utils.memory_errors import REMEDY, ran_out
from vexpress_rt.utils.shutdown import native_call

PROVIDERS = ("cpu", "cuda")
_SILENT = 4  # severity "fatal": what goes wrong is raised, and need not be printed as well
_DTYPES = {"float": "float32", "double": "float64"}  # the others have NumPy's names in ONNX Runtime too


def load(
    path: str | Path,
    spec: EngineSpec | None,
    *,
    threads: int | None = None,
    share_weights: bool = False,
    provider: str = "cpu",
    executor: Executor | None = None,
) -> OnnxEngine | cuda_engine.OnnxCudaEngine:
    """The engine in the ONNX file `path`.

    spec: what its inputs and outputs must be; None takes them as they are in the file (the face detector).
    threads: CPU threads of one operator, limited to the CPUs that this process may use (`cpus.usable_cpus`). None is
        ONNX Runtime's default, one per physical core, or that limit if it is below the machine's number of CPUs.
    share_weights: on the CPU, use weights where the file is mapped to, which all graphs of that file have in common, in
        the place of a copy of its own that is packed for the kernels.
    provider: `cpu` or `cuda`.  executor: on CUDA, what runs it with others, one at a time; None makes one of its own.

    Raises BackendMissingError without ONNX Runtime (for CUDA one that has it, and cuda-python), BackendError if the
    file cannot be loaded or there is no GPU, BundleDamagedError naming every input and output that is not as `spec`
    has it, and ConfigError for an impossible number of threads or an unknown provider.
    """
    check_threads(threads)
    check_choice("provider", provider, PROVIDERS)
    library = _library(provider)
    name = spec.name if spec is not None else Path(path).stem
    if provider == "cpu":
        options = cpu_options(library, threads, share_weights=share_weights)
        session = _session(library, path, name, options, ["CPUExecutionProvider"])
        found = _interface(session, path, name, spec)
        return OnnxEngine(library, session, spec or found, checked=spec is not None)
    return _load_cuda(library, path, name, spec, threads, executor)


def _load_cuda(
    library: Any, path: str | Path, name: str, spec: EngineSpec | None, threads: int | None, executor: Executor | None
) -> cuda_engine.OnnxCudaEngine:
    cuda_engine.check_library(library)
    with contextlib.ExitStack() as undo:  # of what was made when something fails
        made = executor or undo.enter_context(contextlib.closing(Executor()))
        session = _session(library, path, name, _options(library, threads), cuda_engine.providers(made))
        cuda_engine.check_session(session, name)
        found = _interface(session, path, name, spec)
        engine = cuda_engine.OnnxCudaEngine(
            library, session, spec or found, made, owned=executor is None, checked=spec is not None
        )
        undo.enter_context(engine)
        engine.set_up()
        undo.pop_all()
    return engine


def check_cuda() -> None:
    """Raise BackendMissingError without an ONNX Runtime that can use a GPU; whether there is one is another matter."""
    cuda_engine.check_library(_library("cuda"))


def version() -> str:
    """ONNX Runtime's. Raises BackendMissingError without it."""
    return str(_library("cpu").__version__)


class OnnxEngine:
    """An ONNX Runtime session that is held to its specification; made by `load`. An `Engine`, and a context manager."""

    def __init__(self, library: Any, session: Any, spec: EngineSpec, *, checked: bool) -> None:
        self.spec = spec
        self._library = library
        self._session = session
        self._checked = checked  # released graphs may declare output sizes that they do not keep to

    def run(self, inputs: Mapping[str, Tensor], *, resident: bool = False) -> dict[str, Array]:
        """Outputs by name, for inputs by name with the shapes and dtypes of `spec`; arrays are resident here.

        Raises BackendError naming every input that is missing, unknown, or of another shape or dtype, for an engine
        that was closed, for memory that ran out, and for whatever ONNX Runtime complains about.
        """
        name = self.spec.name
        if self._session is None:
            refuse_closed(self.spec)
        feed = check_inputs(self.spec, inputs)
        if elsewhere := [key for key, tensor in feed.items() if isinstance(tensor, Resident)]:
            raise BackendError(
                f"engine {name} runs on the CPU and {', '.join(elsewhere)} is not there: pass what its host() gives"
            )
        names = [tensor.name for tensor in self.spec.outputs]
        options = self._library.RunOptions()
        try:
            with native_call(partial(setattr, options, "terminate", True)):
                arrays = self._session.run(names, feed, options)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise _wrapped(f"engine {name} failed", error) from error
        outputs: dict[str, Array] = dict(zip(names, arrays, strict=True))
        if self._checked:
            check_outputs(self.spec, outputs)
        return outputs

    def run_positional(self, array: Array) -> list[Array]:
        """All outputs in the file's order, for an engine with one input. Raises as `run` does."""
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


def _library(provider: str) -> Any:
    """ONNX Runtime, which tells nobody of its use.

    From 1.29 on its official builds do that on Linux and macOS too, through an identifier and a queue that it keeps in
    the user's cache. When it can be asked not to, it has begun; the variable is read before, at the first import.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except (ImportError, OSError) as error:  # OSError: installed, but one of its shared libraries does not load
        if ran_out(error):
            raise BackendError(f"memory ran out while ONNX Runtime was loaded ({told(error)}): {REMEDY}") from error
        package = "onnxruntime" if provider == "cpu" else "'onnxruntime-gpu[cuda,cudnn]'"
        raise BackendMissingError(
            f"ONNX Runtime, which runs this bundle's engines, cannot be imported ({error}): "
            f"install it with `pip install {package}`"
        ) from error
    onnxruntime.disable_telemetry_events()  # on Windows, where the variable says nothing
    return onnxruntime


def _session(library: Any, path: str | Path, name: str, options: Any, providers: list[Any]) -> Any:
    try:
        with native_call():
            return library.InferenceSession(str(path), options, providers=providers, enable_fallback=False)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise _wrapped(f"engine {name} cannot be loaded from {path}", error) from error


def _interface(session: Any, path: str | Path, name: str, spec: EngineSpec | None) -> EngineSpec:
    """What the session says of itself, held against `spec`."""
    found = EngineSpec(name, _tensors(session.get_inputs()), _tensors(session.get_outputs()))
    if spec is not None:
        check_interface(path, found, spec)
    return found


def cpu_options(library: Any, threads: int | None, *, share_weights: bool = False) -> Any:
    """Options of a session on the CPU.

    All of them compute in one arena of memory, since engines run one after another: the small model takes 406 MB for 50
    s of speech in the place of 559, as fast. The arena is the process's: it keeps its memory for the next engines when
    these are closed, and grows to `memory_limit` at most. Sessions that others make in this process do not use it,
    unless they ask for it, too.

    share_weights: as `load` has it.
    """
    _make_arena(library)
    options = _options(library, threads)
    options.add_session_config_entry("session.use_env_allocators", "1")
    if share_weights:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


@functools.cache
def _make_arena(library: Any) -> None:
    """Once a process."""
    kind, use = library.OrtAllocatorType.ORT_ARENA_ALLOCATOR, library.OrtMemType.DEFAULT
    limit = library.OrtArenaCfg({"max_mem": memory_limit()})
    library.create_and_register_allocator(library.OrtMemoryInfo("Cpu", kind, 0, use), limit)


def memory_limit() -> int:
    """Return the limit in bytes of the memory of all engines on the CPU: 7/8 of the machine's or container's memory.

    An engine that allocates more, for example one of an untrusted bundle, fails with a message. Otherwise the kernel
    would kill this process or another one.
    """
    return (whole_memory() or 0) // 8 * 7  # 0: no limit


def _options(library: Any, threads: int | None) -> Any:
    """Options of any session; those not named here keep ONNX Runtime's defaults (arena on, all graph optimisations).

    `session.set_denormal_as_zero` stays off: it changes the floating-point mode of the calling thread for good, the
    process's first session decides for all (set by a later one, only some of the worker threads flush, so that
    results depend on scheduling), and it brought no speed.

    Memory patterns are off: once a size of input has come twice, all that a run needs is allocated anew in one piece,
    while the arena keeps the pieces of the first run (150 MB for a minute in the small model's audio encoder). They
    brought no speed on the CPU either.

    Each engine has threads of its own. Left to themselves they go on spinning after a run, on the cores that the next
    engine needs: guider, denoiser and decoder in turn take 1.05 (half of the full width) to 1.35 times as long then
    (the small model; `benchmarks.cpu.changes`). While a run lasts they spin.
    """
    options = library.SessionOptions()
    options.log_severity_level = _SILENT
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.force_spinning_stop", "1")
    limit = limit_threads(threads)
    if threads is not None or limit.usable < (os.cpu_count() or 1):  # ONNX Runtime uses the machine's cores
        options.intra_op_num_threads = limit.threads
    return options


def _tensors(nodes: Iterable[Any]) -> tuple[TensorSpec, ...]:
    """What the session says of its inputs or outputs; sizes that the graph leaves open become None."""
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
    """`tensor(float)` -> `float32`; what is no tensor keeps ONNX Runtime's name."""
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(inner, inner)


def _wrapped(what: str, error: Exception) -> BackendError:
    if ran_out(error):
        return BackendError(
            f"{what}: memory ran out ({told(error)}): close other programs; if the audio encoder failed, give the "
            "speech in shorter parts, else build a bundle with smaller --height and --width, or fewer --frames"
        )
    return BackendError(f"{what}: {told(error)}")
