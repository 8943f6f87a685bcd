"""Engines that OpenVINO compiled from ONNX files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vexpress_rt.backends.base import Array, Tensor
from vexpress_rt.backends.openvino import library
from vexpress_rt.backends.openvino.model import cut_timestep, read_model
from vexpress_rt.backends.openvino.options import FULL, EngineOptions
from vexpress_rt.backends.validation import (
    check_arrays,
    check_interface,
    check_outputs,
    only_input,
    refuse_closed,
)
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec
from vexpress_rt.errors import BackendError
from vexpress_rt.utils.native_calls import native_call


def load(path: str | Path, spec: EngineSpec | None, options: EngineOptions | None = None) -> OpenVinoEngine:
    """Load the engine in an ONNX file.

    Args:
        path: The file.
        spec: The inputs and outputs that the engine must have; None accepts those of the file, as for the face
            detector.
        options: Device, precision and threads; None for the defaults.

    Raises:
        BackendMissingError: OpenVINO is not installed.
        BackendError: The file cannot be read or compiled, or memory ran out.
        BundleDamagedError: Inputs or outputs differ from `spec`; the message names every one.
        ConfigError: The number of threads is impossible.
    """
    name = spec.name if spec is not None else Path(path).stem
    compiled, spec = compile_onnx(path, name, spec, options or EngineOptions())
    return OpenVinoEngine.check(compiled, path, name, spec)


def compile_onnx(
    path: str | Path, name: str, spec: EngineSpec | None, options: EngineOptions
) -> tuple[Any, EngineSpec | None]:
    """Read an ONNX file and compile it for a device.

    Args:
        path: The file.
        name: The engine's name, for messages.
        spec: Its inputs and outputs; None for the face detector.
        options: Device, precision and threads.

    Returns:
        OpenVINO's compiled model, and the inputs and outputs that it must have: `spec`, with the sinusoidal
        timestep embedding in place of the timestep in reduced precision (`model.cut_timestep`).

    Raises:
        BackendMissingError: OpenVINO is not installed.
        BackendError: The file cannot be read or compiled, or memory ran out.
        ConfigError: The number of threads is impossible.
    """
    configuration = options.configuration()
    core, model = library.compiler(), read_model(path, name)
    try:
        if spec is not None and options.precision != FULL:
            spec = cut_timestep(library.import_library(), model, spec)
        with native_call():
            return core.compile_model(model, options.device, configuration), spec
    except BackendError:
        raise
    except Exception as error:  # OpenVINO's exceptions have no common base
        raise library.backend_error(f"engine {name} cannot be compiled from {path}", error) from error


class OpenVinoEngine:
    """A compiled model, checked against its specification; made by `load` or `check`.

    It is an `Engine` and a context manager. Each run has an infer request of its own, which takes 0.1 ms to make:
    several threads can run one engine, and no inputs or outputs are kept between runs.
    """

    def __init__(self, compiled: Any, spec: EngineSpec, *, checked: bool) -> None:
        self.spec = spec
        self._compiled = compiled
        self._checked = checked  # released graphs may declare output sizes that differ from the real ones
        self._inputs = _names(compiled.inputs, spec.inputs)
        self._outputs = _names(compiled.outputs, spec.outputs)

    @classmethod
    def check(cls, compiled: Any, path: str | Path, name: str, spec: EngineSpec | None) -> OpenVinoEngine:
        """Return an engine after checking the inputs and outputs of its compiled model.

        Args:
            compiled: OpenVINO's compiled model.
            path: The ONNX file, for messages.
            name: The engine's name.
            spec: The inputs and outputs to expect; None skips the check.

        Raises:
            BundleDamagedError: They differ from `spec`.
        """
        sides = ((), ()) if spec is None else (spec.inputs, spec.outputs)
        found = EngineSpec(name, _tensor_specs(compiled.inputs, sides[0]), _tensor_specs(compiled.outputs, sides[1]))
        if spec is not None:
            check_interface(path, found, spec)
        return cls(compiled, spec or found, checked=spec is not None)

    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool = False) -> dict[str, Array]:
        """See `Engine.run`. Outputs are arrays on every device, so `keep_on_device` has no effect."""
        name, compiled = self.spec.name, self._compiled
        if compiled is None:
            refuse_closed(self.spec)
        library.check_process()
        feed = check_arrays(self.spec, inputs)
        try:
            request = compiled.create_infer_request()
            with native_call(request.cancel):
                found = request.infer({place: feed[key] for place, key in enumerate(self._inputs)}, share_inputs=True)
            arrays = {key: np.array(found[place]) for place, key in enumerate(self._outputs)}
        except Exception as error:  # OpenVINO's exceptions have no common base
            raise library.backend_error(f"engine {name} failed", error) from error
        outputs: dict[str, Array] = {tensor.name: arrays[tensor.name] for tensor in self.spec.outputs}
        if self._checked:
            check_outputs(self.spec, outputs)
        return outputs

    def run_positional(self, array: Array) -> list[Array]:
        """See `Engine.run_positional`."""
        return list(self.run({only_input(self.spec): array}).values())

    def close(self) -> None:
        """Free the compiled model, after the runs of other threads. Closing twice is allowed."""
        self._compiled = None

    def __enter__(self) -> OpenVinoEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _tensor_specs(ports: Iterable[Any], expected: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Return the inputs or outputs of a compiled model; dynamic sizes become None."""
    ports = list(ports)
    specs = []
    for name, port in zip(_names(ports, expected), ports, strict=True):
        shape = tuple(dim.get_length() if dim.is_static else None for dim in port.partial_shape)
        specs.append(TensorSpec(name, tuple(map(str, port.partial_shape)), shape, _dtype(port.element_type)))
    return tuple(specs)


def _names(ports: Iterable[Any], expected: tuple[TensorSpec, ...]) -> list[str]:
    """Return the name of each port. OpenVINO gives a tensor the names of all tensors that it has merged into it."""
    unused = {tensor.name for tensor in expected}
    names = []
    for port in ports:
        name = next((name for name in sorted(port.names) if name in unused), port.any_name)
        unused.discard(name)  # two outputs that are one tensor have the same names
        names.append(name)
    return names


def _dtype(kind: Any) -> str:
    """Return NumPy's name of an element type; OpenVINO's own where NumPy has none."""
    name = kind.get_type_name()
    return "bfloat16" if name == "bf16" else str(np.dtype(kind.to_dtype()))
