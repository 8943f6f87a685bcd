"""Parts of the GPU check that build and compare engines, run on the CPU with real and fake engines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.gpu import bundles, engines, timings
from benchmarks.gpu.parts import CheckFailedError, Figures, NotAvailableError, ReportFigures
from export.build.builder import build
from export.build.options import BuildOptions
from export.onnx.graph import OPSETS
from tests.doubles.fakes import FakeEngine, fake_specs
from tests.support.engines import doubler, fake_tensorrt, spec_of
from tests.support.gpu_parts import ignore, options_of
from tests.support.micro import MICRO_SHAPE
from vexpress_rt.backends.base import Array
from vexpress_rt.backends.tensorrt import engine as tensorrt
from vexpress_rt.backends.tensorrt.library import Library
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import EngineSpec
from vexpress_rt.errors import BackendError, BackendMissingError

# Engines.


def sums(offset: float = 0, *, changing: bool = False) -> Callable[[EngineSpec, Mapping[str, Array]], dict[str, Array]]:
    """Return a function that fills the outputs with the sum of all inputs plus `offset`, which grows if `changing`."""
    calls: list[int] = []

    def compute(spec: EngineSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
        calls.append(0)
        total = sum(float(np.sum(array, dtype=np.float64)) for array in inputs.values())
        more = offset * len(calls) if changing else offset
        return {t.name: np.full(t.shape, total % 100 + more, t.dtype) for t in spec.outputs}

    return compute


SPEC = fake_specs()["vae_encoder"]


def test_engines_that_agree_have_no_error_and_repeat_exactly() -> None:
    found = engines.compare(FakeEngine(SPEC, sums()), FakeEngine(SPEC, sums(), on_device=True), 0.01)
    assert found == {"error": 0.0, "output": "", "allowed": 0.01, "repeats_exactly": True}


def test_the_worst_output_of_an_engine_is_named() -> None:
    found = engines.compare(FakeEngine(SPEC, sums()), FakeEngine(SPEC, sums(3.0), on_device=True), 0.01)
    assert found["output"] == "latent"
    assert found["error"] > 0.03 - 1e-6


def test_an_engine_is_run_as_in_use_and_with_other_values_where_a_graph_may_be_replayed() -> None:
    engine = FakeEngine(SPEC, sums(), on_device=True)
    engines.compare(FakeEngine(SPEC, sums()), engine, 0.01)
    first, second, third = (call["image"] for call in engine.calls)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, third)


def test_values_that_are_not_finite_are_infinitely_wrong() -> None:
    def broken(spec: EngineSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {t.name: np.full(t.shape, np.nan, t.dtype) for t in spec.outputs}

    found = engines.compare(FakeEngine(SPEC, sums()), FakeEngine(SPEC, broken), 0.01)
    assert found["error"] == np.inf


def test_an_engine_that_gives_another_result_for_equal_inputs_is_found_out() -> None:
    engine = FakeEngine(SPEC, sums(1e-3, changing=True), on_device=True)
    assert engines.compare(FakeEngine(SPEC, sums()), engine, 0.01)["repeats_exactly"] is False


@pytest.fixture
def doubling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An engine on a fake GPU, run by a fake TensorRT."""
    for module in fake_tensorrt(monkeypatch):
        plan = doubler()
        with tensorrt.load(module.write(tmp_path / "doubler.plan", plan), spec_of("doubler", plan)) as engine:
            yield engine


def test_an_engine_on_a_gpu_is_compared_before_and_after_its_graph_is_captured(doubling: Any) -> None:
    reference = FakeEngine(doubling.spec, lambda spec, inputs: {"y": inputs["x"] * 2})
    found = engines.compare(reference, doubling, 0.01)
    assert (found["error"], found["repeats_exactly"]) == (0.0, True)
    assert doubling.captured


def test_a_time_ends_when_the_gpu_is_done(doubling: Any) -> None:
    outputs = doubling.run({"x": np.ones((2, 3), np.float32)}, keep_on_device=True)
    assert not outputs["y"].ready.done()
    timings.wait(outputs)
    assert outputs["y"].ready.done()


def test_every_engine_of_a_bundle_is_compared(micro_bundle: Path) -> None:
    reported: list[int] = []
    found = engines.check(options_of(micro_bundle), lambda figures: reported.append(len(figures["engines"])))
    assert set(found["engines"]) == set(Bundle.open(micro_bundle).manifest.engines)
    assert all(result["error"] == 0 and result["repeats_exactly"] for result in found["engines"].values())
    assert reported == list(range(1, len(found["engines"]) + 1))
    assert "provider:" in found["describe"]


def test_engines_that_are_too_far_off_or_cannot_run_are_named(
    micro_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(reference: Any, engine: Any, allowed: float) -> dict[str, Any]:
        if engine.spec.name == "pose_guider":
            raise BackendError("the guider is ill")
        off = 0.5 if engine.spec.name == "denoiser" else 0.0
        return {"error": off, "output": "conditional", "allowed": allowed}

    monkeypatch.setattr(engines, "compare", compare)
    with pytest.raises(
        CheckFailedError, match=r"pose_guider: the guider is ill; denoiser has a relative error of 5\.00e-01"
    ) as raised:
        engines.check(options_of(micro_bundle), ignore)
    assert "vae" not in str(raised.value)


def test_activations_of_eleven_bits_may_be_further_off_than_those_of_float32() -> None:
    assert engines.tolerance("denoiser", "fp16") == 2e-2
    assert engines.tolerance("audio_encoder", "fp16") == engines.tolerance("denoiser", "fp32") == 1e-3


# Acceptance of a GPU.


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "build", lambda options, report: {"library": "TensorRT for RTX 1.7.1"})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], None]:
    """A function that sets the GPU's compute capability; TensorRT libraries are replaced and never called."""
    monkeypatch.setattr(engines.tensorrt_library, "load", lambda target: Library(target, target, None, "1.7", None))

    def put_in(capability: tuple[int, int]) -> None:
        monkeypatch.setattr("vexpress_rt.backends.cuda.runtime.name_and_capability", lambda: ("a GPU", capability))

    return put_in


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*given: object, **more: object) -> None:
        raise error

    return fail


def accept(bundle: Path, target: str = "tensorrt-rtx", report: ReportFigures = ignore) -> Figures:
    """Run the part with an existing bundle on the CPU."""
    return engines.accept(options_of(bundle, engines=engines.PROBES) | {"target": target}, report)


@pytest.mark.usefixtures("built")
def test_a_gpu_that_tensorrt_for_rtx_is_not_made_for_and_refuses_is_not_available(
    micro_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: Any
) -> None:
    gpu((9, 0))
    monkeypatch.setattr(engines.Engines, "get", raising(BackendError("no kernel image")))
    reported: list[Figures] = []
    with pytest.raises(NotAvailableError, match=r"refuses a GPU of compute capability 9\.0: no kernel image"):
        accept(micro_bundle, report=reported.append)
    assert reported[-1]["library"] == "TensorRT for RTX 1.7.1"


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("target", "capability"),
    [("tensorrt-rtx", (8, 6)), ("tensorrt-rtx", (12, 1)), ("tensorrt", (9, 0)), ("onnxruntime", (9, 0))],
)
def test_on_a_gpu_that_the_library_is_made_for_the_same_is_an_error(
    micro_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: Any, target: str, capability: tuple[int, int]
) -> None:
    gpu(capability)
    monkeypatch.setattr(engines.Engines, "get", raising(BackendError("no kernel image")))
    with pytest.raises(BackendError, match="no kernel image"):
        accept(micro_bundle, target)


def test_a_build_that_fails_is_a_failure_on_every_gpu(
    micro_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: Any
) -> None:
    gpu((9, 0))
    monkeypatch.setattr(engines, "build", raising(CheckFailedError("ended with exit code 1")))
    with pytest.raises(CheckFailedError, match="exit code 1"):
        accept(micro_bundle)


@pytest.mark.usefixtures("built")
def test_plans_that_do_not_fit_are_a_failure_on_every_gpu(
    micro_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: Any
) -> None:
    gpu((9, 0))
    monkeypatch.setattr(engines, "choose", raising(BackendError("compiled for another GPU")))
    with pytest.raises(BackendError, match="compiled for another GPU"):
        accept(micro_bundle)


@pytest.mark.usefixtures("built")
def test_an_engine_that_is_loaded_and_cannot_run_is_a_failure_on_every_gpu(
    micro_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: Any
) -> None:
    gpu((9, 0))
    monkeypatch.setattr(engines, "_run", raising(BackendError("an illegal memory access")))
    with pytest.raises(BackendError, match="an illegal memory access"):
        accept(micro_bundle)


@pytest.mark.usefixtures("built")
def test_a_library_that_is_missing_stays_missing(micro_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: Any) -> None:
    gpu((9, 0))
    monkeypatch.setattr(engines.Engines, "get", raising(BackendMissingError("not installed")))
    with pytest.raises(BackendMissingError):
        accept(micro_bundle)


@pytest.mark.usefixtures("built")
def test_what_accepts_the_gpu_has_run_every_probe(micro_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    run = engines._run
    monkeypatch.setattr(engines, "_run", lambda engine, *a, **k: ran.append(engine.spec.name) or run(engine, *a, **k))
    found = accept(micro_bundle)
    assert found["library"] == "TensorRT for RTX 1.7.1"
    assert "cpu (requested)" in found["describe"]
    assert ran == list(engines.PROBES)


@pytest.mark.usefixtures("built")
def test_a_gpu_that_gives_values_that_are_not_finite_fails(micro_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_run", lambda *given, **more: {"one": np.ones(2), "other": np.array([1, np.inf])})
    with pytest.raises(CheckFailedError, match=r"engine pose_guider gives values that are not finite in other$"):
        accept(micro_bundle)


def test_probes_have_both_kinds_of_operators_that_are_compiled_apart(
    micro_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPSETS, "onnxruntime", OPSETS["tensorrt-rtx"])  # its graphs, without its library
    build(micro_checkpoint, tmp_path / "bundle", BuildOptions(MICRO_SHAPE, engines=engines.PROBES))
    graphs = [onnx.load(tmp_path / "bundle" / f"{name}.onnx", load_external_data=False) for name in engines.PROBES]
    assert {"Conv", "Attention"} <= {node.op_type for graph in graphs for node in graph.graph.node}


# Bundles.


def test_a_bundle_is_built_by_the_command_and_weights_are_taken_as_they_are(
    micro_checkpoint: Path, tmp_path: Path
) -> None:
    weights = bundles.make_weights({"preset": "tiny", "weights": str(micro_checkpoint)}, ignore)
    assert weights["reused"] is True
    options = options_of(tmp_path / "bundle", weights=str(micro_checkpoint), precision="fp32", engines=engines.PROBES)
    found = bundles.build({**options, "height": 16, "width": 24, "frames": 3}, ignore)
    assert set(Bundle.open(tmp_path / "bundle").manifest.engines) == {*engines.PROBES}
    assert set(found["bytes"]) == {f"{name}.onnx" for name in engines.PROBES}
    assert found["library"].startswith("ONNX Runtime ")
    assert found["peak_memory_bytes"] > 1 << 26
    assert any("pose_guider" in text for text in found["report"])


def test_a_build_that_fails_is_a_failure(
    micro_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    options = options_of(tmp_path / "bundle", weights=str(micro_checkpoint), precision="fp32")
    with pytest.raises(CheckFailedError, match="ended with exit code 1: no message"):
        bundles.build({**options, "height": 16, "width": 24, "frames": 3}, ignore)


def test_a_library_that_is_not_installed_is_named() -> None:
    with pytest.raises(BackendMissingError):
        bundles.require("tensorrt", "tensorrt")
