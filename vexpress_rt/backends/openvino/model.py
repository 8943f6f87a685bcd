"""ONNX files as OpenVINO models, whose denoisers take the sinusoidal timestep embedding in reduced precision."""

from __future__ import annotations

import functools
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vexpress_rt.backends.openvino import library as openvino_library
from vexpress_rt.bundle.engine_spec import TIMESTEP, TIMESTEP_SINES, EngineSpec, TensorSpec
from vexpress_rt.bundle.timestep_sines import timestep_frequencies
from vexpress_rt.errors import BackendError
from vexpress_rt.utils.native_calls import native_call
from vexpress_rt.utils.project_links import EXPORTER

_READER = threading.Lock()  # several threads load engines
_RTOL = 1e-5  # of the frequencies, which the graph has in float32
_PASS_ON = {"Unsqueeze", "Reshape", "Squeeze"}  # between the timestep and its product with the frequencies


def read_model(path: str | Path, name: str) -> Any:
    """Read an ONNX file as a model. Its weights are mapped from their files.

    Only OpenVINO's reader of ONNX sees the file; by default OpenVINO also tries its readers of other formats.

    Args:
        path: The file.
        name: The engine's name, for messages.

    Raises:
        BackendMissingError: OpenVINO is not installed.
        BackendError: The file cannot be read, or memory ran out.
    """
    library = openvino_library.import_library()
    with _READER:
        reader = _onnx_reader(library, os.getpid())
    try:
        with native_call():
            return reader.convert(reader.load(str(path)))
    except Exception as error:  # OpenVINO's exceptions have no common base
        raise openvino_library.backend_error(f"engine {name} cannot be loaded from {path}", error) from error


def cut_timestep(library: Any, model: Any, spec: EngineSpec) -> EngineSpec:
    """Replace the input `timestep` of a denoiser by the sinusoidal timestep embedding.

    In bf16 or fp16, the plugin would round the angles, which reach 999, before their sines. The new input is float32.
    A model without the input is left as it is.

    A graph of another structure is refused: with the embedding in reduced precision, which the self-test does not
    cover, the shipped model's denoiser loses 5 to 10 dB of signal to noise, and the half-width one 11 to 15 dB.

    Args:
        library: OpenVINO.
        model: The model; it is changed in place.
        spec: The engine's inputs and outputs, as in the graph.

    Returns:
        The inputs and outputs of the changed model.

    Raises:
        BackendError: The graph computes another embedding than `timestep_sines`.
    """
    timestep = next((p for p in model.get_parameters() if TIMESTEP in p.output(0).get_names()), None)
    if timestep is None:
        return spec
    sinusoid = _sinusoid(timestep)
    if sinusoid is None:
        raise BackendError(
            f"engine {spec.name} uses its input {TIMESTEP} for another embedding than that of vexpress_rt, and reduced "
            "precision would round it; expected its cosines and sines alone: use precision='fp32', or build "
            f"the bundle again with `--target openvino` {EXPORTER}"
        )
    size = int(sinusoid.get_shape()[-1])
    sines = library.opset13.parameter([1, size], library.Type.f32, name=TIMESTEP_SINES)
    sinusoid.replace(sines.output(0))
    sines.output(0).set_names({TIMESTEP_SINES})  # after replacing, which adds the names of the replaced output
    model.add_parameters([sines])
    model.remove_parameter(timestep)
    model.validate_nodes_and_infer_types()
    return with_sines(spec, size)


def with_sines(spec: EngineSpec, size: int) -> EngineSpec:
    """Return the inputs and outputs of an engine after `cut_timestep`.

    Args:
        spec: The inputs and outputs before.
        size: Length of the embedding: the channels of the U-Net's first level.
    """
    sines = TensorSpec(TIMESTEP_SINES, ("1", "K"), (1, size), "float32")
    return replace(spec, inputs=tuple(sines if tensor.name == TIMESTEP else tensor for tensor in spec.inputs))


def imported_spec(compiled: Any, spec: EngineSpec) -> EngineSpec:
    """Return the inputs and outputs that a compiled model must have, whether or not `cut_timestep` changed it.

    Args:
        compiled: OpenVINO's compiled model.
        spec: The inputs and outputs of the engine's graph.
    """
    sines = next((port for port in compiled.inputs if TIMESTEP_SINES in port.names), None)
    if sines is None or any(tensor.name == TIMESTEP_SINES for tensor in spec.inputs):
        return spec
    return with_sines(spec, int(sines.shape[-1]))


def _sinusoid(timestep: Any) -> Any | None:
    """Return the output that joins cosines and sines of the timestep's angles; None if the structure is another."""
    product = _only_consumer(timestep)
    while product is not None and product.get_type_name() in _PASS_ON:
        product = _only_consumer(product)
    if product is None or product.get_type_name() != "Multiply":
        return None
    angles = product.output(0)
    waves = {port.get_node().get_type_name(): port.get_node() for port in angles.get_target_inputs()}
    if sorted(waves) != ["Cos", "Sin"] or len(angles.get_target_inputs()) != 2:
        return None
    joined = _only_consumer(waves["Cos"])
    if joined is None or joined.get_type_name() != "Concat" or _only_consumer(waves["Sin"]) is None:
        return None
    order = [value.get_node().get_type_name() for value in joined.input_values()]
    shape = list(joined.get_output_partial_shape(0).to_shape()) if joined.get_output_partial_shape(0).is_static else []
    if order != ["Cos", "Sin"] or len(shape) != 2 or shape[0] != 1:
        return None
    factors = [value.get_node() for value in product.input_values() if value.get_node().get_type_name() == "Constant"]
    if len(factors) != 1:
        return None
    found, expected = np.ravel(factors[0].get_data()), timestep_frequencies(shape[1])
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=_RTOL, atol=0):
        return None
    return joined.output(0)


@functools.cache
def _onnx_reader(openvino: Any, process: int) -> Any:
    """Return the reader of ONNX, one for each process as `library.core` is."""
    return openvino.frontend.FrontEndManager().load_by_framework("onnx")


def _only_consumer(node: Any) -> Any | None:
    """Return the only consumer of a node's only output; None if there are several."""
    consumers = node.output(0).get_target_inputs()
    return next(iter(consumers)).get_node() if len(consumers) == 1 else None
