"""Engines as ONNX files, run by ONNX Runtime on the CPU. The only file that imports onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vexpress_rt.backends import Tensor
from vexpress_rt.config import check_threads
from vexpress_rt.errors import BackendError, BackendMissingError, BundleDamagedError
from vexpress_rt.specs import EngineSpec, TensorSpec, interface_errors

_PROVIDERS = ["CPUExecutionProvider"]
_SILENT = 4  # severity "fatal": what goes wrong is raised, and need not be printed as well
_DTYPES = {"float": "float32", "double": "float64"}  # the others have NumPy's names in ONNX Runtime too


def load(path: str | Path, spec: EngineSpec | None, *, threads: int | None = None) -> OnnxEngine:
    """The engine in the ONNX file `path`.

    spec: what its inputs and outputs must be; None takes them as they are in the file (the face detector).
    threads: CPU threads of one operator; None leaves it to ONNX Runtime (one a physical core).

    Raises BackendMissingError without ONNX Runtime, BackendError if the file cannot be loaded, BundleDamagedError
    naming every input and output that is not as `spec` has it, and ConfigError for an impossible number of threads.
    """
    check_threads(threads)
    library = _library()
    name = spec.name if spec is not None else Path(path).stem
    try:
        session = library.InferenceSession(
            str(path), _options(library, threads), providers=_PROVIDERS, enable_fallback=False
        )
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise _wrapped(f"engine {name} cannot be loaded from {path}", error) from error
    found = EngineSpec(name, _tensors(session.get_inputs()), _tensors(session.get_outputs()))
    if spec is not None and (wrong := interface_errors(found, spec)):
        raise BundleDamagedError(
            f"{path} is not the engine {name} of this bundle: {'; '.join(wrong)}: "
            f"build it again with `python -m export.build --engine {name}`"
        )
    return OnnxEngine(session, spec or found, checked=spec is not None)


class OnnxEngine:
    """An ONNX Runtime session that is held to its specification; made by `load`. An `Engine`, and a context manager."""

    def __init__(self, session: Any, spec: EngineSpec, *, checked: bool) -> None:
        self.spec = spec
        self._session = session
        self._checked = checked  # released graphs may declare output sizes that they do not keep to

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, for inputs by name with the shapes and dtypes of `spec`.

        Raises BackendError naming every input that is missing, unknown, or of another shape or dtype, for an engine
        that was closed, for memory that ran out, and for whatever ONNX Runtime complains about.
        """
        name = self.spec.name
        if self._session is None:
            raise BackendError(f"engine {name} was closed; load it again to run it")
        feed = {key: np.asarray(array, order="C") for key, array in inputs.items()}
        given = EngineSpec(name, tuple(_describe(key, array) for key, array in feed.items()), ())
        if wrong := interface_errors(given, EngineSpec(name, self.spec.inputs, ()), arrays=True):
            raise BackendError(f"a call of engine {name} does not fit it: {'; '.join(wrong)}")
        names = [tensor.name for tensor in self.spec.outputs]
        try:
            arrays = self._session.run(names, feed)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise _wrapped(f"engine {name} failed", error) from error
        outputs: dict[str, Tensor] = dict(zip(names, arrays, strict=True))
        if self._checked:
            self._check_outputs(outputs)
        return outputs

    def run_positional(self, array: Tensor) -> list[Tensor]:
        """All outputs in the file's order, for an engine with one input. Raises as `run` does."""
        if len(self.spec.inputs) != 1:
            names = ", ".join(tensor.name for tensor in self.spec.inputs)
            raise BackendError(f"engine {self.spec.name} takes {names}; expected one input: pass them by name")
        return list(self.run({self.spec.inputs[0].name: array}).values())

    def close(self) -> None:
        """Free the session. Closing twice is allowed."""
        self._session = None

    def __enter__(self) -> OnnxEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_outputs(self, outputs: Mapping[str, Tensor]) -> None:
        name = self.spec.name
        given = EngineSpec(name, (), tuple(_describe(key, array) for key, array in outputs.items()))
        if wrong := interface_errors(given, EngineSpec(name, (), self.spec.outputs), arrays=True):
            raise BackendError(
                f"engine {name} gave what it should not: {'; '.join(wrong)}: "
                f"build it again with `python -m export.build --engine {name}`"
            )


def _library() -> Any:
    try:
        import onnxruntime
    except (ImportError, OSError) as error:  # OSError: installed, but one of its shared libraries does not load
        raise BackendMissingError(
            f"ONNX Runtime, which runs this bundle's engines, cannot be imported ({error}): "
            "install it with `pip install onnxruntime`"
        ) from error
    onnxruntime.disable_telemetry_events()  # collected by official builds for Windows only
    return onnxruntime


def _options(library: Any, threads: int | None) -> Any:
    """Options of a session; those not named here keep ONNX Runtime's defaults (arena on, all graph optimisations).

    `session.set_denormal_as_zero` stays off: it changes the floating-point mode of the calling thread for good, the
    process's first session decides for all (set by a later one, only some of the worker threads flush, so that
    results depend on scheduling), and it brought no speed.
    """
    options = library.SessionOptions()
    options.log_severity_level = _SILENT
    if threads is not None:
        options.intra_op_num_threads = threads
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


def _describe(name: str, array: Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(str(size) for size in array.shape), tuple(array.shape), str(array.dtype))


def _wrapped(what: str, error: Exception) -> BackendError:
    text = " ".join(str(error).split())[:1000] or type(error).__name__
    if isinstance(error, MemoryError) or "allocate memory" in text or "bad_alloc" in text or "bad allocation" in text:
        return BackendError(
            f"{what}: memory ran out ({text}): close other programs, or build a bundle with smaller "
            "--height and --width, or fewer --frames"
        )
    return BackendError(f"{what}: {text}")
