"""The sinusoidal timestep embedding is cut out of a denoiser's graph, and other structures are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from tests.support.onnx_graphs import FLOAT, node, save
from vexpress_rt.backends.openvino import library
from vexpress_rt.backends.openvino.model import cut_timestep
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.bundle.engine_spec import TIMESTEP_SINES, EngineSpec, engine_specs
from vexpress_rt.bundle.timestep_sines import timestep_frequencies, timestep_sines
from vexpress_rt.errors import BackendError

SIZE = 8


@pytest.fixture(scope="module")
def openvino() -> Any:
    return library.import_library()


def sinusoid(
    path: Path,
    frequencies: Any = None,
    order: str = "cos sin",
    second: str = "Sin",
    read_twice: str = "",
) -> EngineSpec:
    """Write a graph whose output is the sinusoid of its timestep."""
    values = timestep_frequencies(SIZE) if frequencies is None else frequencies
    nodes = [
        node("Unsqueeze", "timestep axis", "column"),
        node("Mul", "column frequencies", "angles"),
        node("Cos", "angles", "cos"),
        node(second, "angles", "sin"),
        node("Concat", order, "joined", axis=-1),
        node("Mul", "joined two", "doubled"),
    ]
    weights = [
        numpy_helper.from_array(np.array([1]), "axis"),
        numpy_helper.from_array(np.asarray(values, np.float32)[None], "frequencies"),
        numpy_helper.from_array(np.array(2, np.float32), "two"),
    ]
    outputs = [("doubled", FLOAT, [1, SIZE])]
    if read_twice:
        nodes.append(node("Abs", read_twice, "other"))
        outputs.append(("other", FLOAT, [1] if read_twice == "timestep" else [1, SIZE // 2]))
    return save(path, nodes, [("timestep", FLOAT, [1])], outputs, weights)


def run(openvino: Any, model: Any, **inputs: Any) -> Any:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(inputs)[0]


def test_the_model_takes_the_sinusoid_and_gives_the_same_result(openvino: Any, tmp_path: Path) -> None:
    spec = sinusoid(tmp_path / "denoiser.onnx")
    whole, cut = (openvino.Core().read_model(str(tmp_path / "denoiser.onnx")) for _ in range(2))
    changed = cut_timestep(openvino, cut, spec)
    assert [t.describe() for t in changed.inputs] == [f"{TIMESTEP_SINES}: float32 (1, K={SIZE})"]
    assert changed.outputs == spec.outputs
    assert [sorted(port.get_names()) for port in cut.inputs] == [[TIMESTEP_SINES]]
    before = run(openvino, whole, timestep=np.array([777], np.float32))
    after = run(openvino, cut, timestep_sines=timestep_sines(777, SIZE))
    np.testing.assert_allclose(after, before, atol=4e-4)


def test_the_shipped_denoisers_are_cut_in_place_of_the_timestep(openvino: Any) -> None:
    bundle = Bundle.open(shipped_bundle())
    specs = engine_specs(bundle.manifest.model, bundle.manifest.shape)
    for name in ("denoiser", "denoiser_cond"):
        model = openvino.Core().read_model(str(bundle.folder / f"{name}.onnx"))
        spec = cut_timestep(openvino, model, specs[name])
        assert {next(iter(port.get_names())) for port in model.inputs} == {tensor.name for tensor in spec.inputs}
        expected = [TIMESTEP_SINES if tensor.name == "timestep" else tensor.name for tensor in specs[name].inputs]
        assert [tensor.name for tensor in spec.inputs] == expected


def test_a_model_without_a_timestep_is_left_as_it_is(openvino: Any, tmp_path: Path) -> None:
    spec = save(tmp_path / "e.onnx", [node("Relu", "x", "y")], [("x", FLOAT, [1])], [("y", FLOAT, [1])])
    model = openvino.Core().read_model(str(tmp_path / "e.onnx"))
    assert cut_timestep(openvino, model, spec) is spec
    assert [sorted(port.get_names()) for port in model.inputs] == [["x"]]


OTHERS: dict[str, Callable[[Path], EngineSpec]] = {
    "other frequencies": lambda path: sinusoid(path, timestep_frequencies(SIZE) * 1.001),
    "sines first": lambda path: sinusoid(path, order="sin cos"),
    "a second reader of the cosines": lambda path: sinusoid(path, read_twice="cos"),
    "no sines": lambda path: sinusoid(path, second="Tanh"),
    "a second reader of the angles": lambda path: sinusoid(path, read_twice="angles"),
    "a second reader of the timestep": lambda path: sinusoid(path, read_twice="timestep"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_structure_is_refused_with_the_remedy(case: str, openvino: Any, tmp_path: Path) -> None:
    spec = OTHERS[case](tmp_path / "denoiser.onnx")
    model = openvino.Core().read_model(str(tmp_path / "denoiser.onnx"))
    with pytest.raises(BackendError, match=r"engine denoiser uses its input timestep .* use precision='fp32', or bu"):
        cut_timestep(openvino, model, spec)
    assert [sorted(port.get_names()) for port in model.inputs] == [["timestep"]]
