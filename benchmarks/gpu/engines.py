"""Test whether a library accepts the GPU, and compare every engine with its float32 version on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np

from benchmarks.gpu.bundles import build
from benchmarks.gpu.compare import ANOTHER_ORDER
from benchmarks.gpu.parts import CheckFailedError, Figures, NotAvailableError, ReportFigures
from vexpress_rt.backends.base import Array, Engine, Tensor
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.loaded_engines import Engines
from vexpress_rt.backends.registry import choose
from vexpress_rt.backends.tensorrt import library as tensorrt_library
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.bundle.target import TARGETS
from vexpress_rt.errors import BackendError, BackendMissingError
from vexpress_rt.pipeline import device_operations

PROBES = ("pose_guider", "audio_projection")  # the smallest engine with convolutions, and the one with attention
PICTURE = (1, 3, 128, 128)  # input of the face detector, which takes pictures of any size
SEEDS = (0, 1, 1)  # of the inputs of each run; in the third run, engines may replay the CUDA graph of the second


def accept(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Build some small engines, load them and run them.

    Args:
        options: Those of `bundles.build`, with `engines`.
        report: Called with the figures so far.

    Raises:
        NotAvailableError: The library does not support this GPU, and refuses to load an engine.
        BackendMissingError: A library is not installed.
        CheckFailedError: The build fails, or an output has values that are not finite.
        BackendError: Any other failure.
    """
    figures = build(options, report)
    report(figures)
    with opened(Bundle.open(options["bundle"]), options["provider"]) as engines:
        figures["describe"] = engines.describe(device_operations.describe_latents(on_gpu=engines.provider.on_gpu))
        for name in options["engines"]:
            engine = _load(engines, name, options["target"])
            if wrong := not_finite(_run(engine, draw_inputs(engine, seed=0), keep_on_device=False)):
                raise CheckFailedError(f"engine {name} gives values that are not finite in {', '.join(wrong)}")
    return figures


def check(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Compare all engines of a bundle with a reference bundle on the CPU, in three runs each.

    Args:
        options: {bundle, reference: folders; provider}.
        report: Called with the figures so far.

    Raises:
        CheckFailedError: An engine does not run, or its error is too large.
    """
    reference, bundle = Bundle.open(options["reference"]), Bundle.open(options["bundle"])
    figures: Figures = {"engines": {}}
    with opened(reference, "cpu") as expected, opened(bundle, options["provider"]) as found:
        figures["describe"] = found.describe(device_operations.describe_latents(on_gpu=found.provider.on_gpu))
        for name in bundle.manifest.engines:
            try:
                result = compare(expected.get(name), found.get(name), tolerance(name, bundle.manifest.precision))
            except BackendError as error:
                result = {"error": str(error)[:1000]}
            figures["engines"][name] = result
            report(figures)
    _judge(figures["engines"])
    return figures


def opened(bundle: Bundle, provider: str) -> closing[Engines]:
    """Open the engines of a bundle for a `with` block, without compiling any. Raises the errors of `choose`."""
    return closing(Engines(bundle, choose(provider, bundle, rebuild="never"), None))


def tolerance(name: str, precision: str) -> float:
    """Return the largest allowed error, relative to the largest value of an output.

    This is the exporter's tolerance, but at least ANOTHER_ORDER.
    """
    from export.build.parity import TOLERANCE
    from vexpress_rt.bundle.engine_spec import PRECISIONS

    activations = "float32" if name in ("audio_encoder", FACE_DETECTOR) else PRECISIONS[precision]
    return max(TOLERANCE[activations], ANOTHER_ORDER)


def compare(reference: Engine, engine: Engine, allowed: float) -> dict[str, Any]:
    """Return the largest relative error of three runs, and whether equal inputs gave equal outputs.

    The first run copies its outputs to the host; the others keep them on the device until they are compared.

    Raises:
        BackendError: An engine does not run.
    """
    from export.build.parity import relative_error

    worst, where, again = 0.0, "", True
    previous: dict[str, Array] = {}
    for run, seed in enumerate(SEEDS):
        inputs = draw_inputs(engine, seed)
        outputs = _run(engine, inputs, keep_on_device=run > 0)
        expected = _run(reference, _widened(inputs, reference), keep_on_device=False)
        for name, array in outputs.items():
            error = relative_error(array, expected[name])
            if not error <= worst:
                worst, where = error, name
        if run and seed == SEEDS[run - 1]:
            again = all(np.array_equal(array, previous[name]) for name, array in outputs.items())
        previous = outputs
    return {"error": worst, "output": where, "allowed": allowed, "repeats_exactly": again}


def draw_inputs(engine: Engine, seed: int) -> dict[str, Array]:
    """Return random inputs for an engine: those of the exporter's parity check."""
    from export.build.parity import random_inputs

    names = [tensor.name for tensor in engine.spec.inputs]
    if engine.spec.name == FACE_DETECTOR:
        return {names[0]: np.random.default_rng(seed).uniform(-1, 1, PICTURE).astype(np.float32)}
    return dict(zip(names, random_inputs(engine.spec, seed), strict=True))


def not_finite(outputs: Mapping[str, Array]) -> list[str]:
    """Return the names of outputs with NaN or infinite values."""
    return [name for name, array in outputs.items() if not np.isfinite(array).all()]


def _load(engines: Engines, name: str, target: str) -> Engine:
    """Load an engine; raise NotAvailableError if the library does not support the GPU."""
    try:
        return engines.get(name)
    except BackendMissingError:
        raise
    except BackendError as error:
        if gpu := _not_made_for(target):
            raise NotAvailableError(f"the library refuses a GPU of compute capability {gpu}: {error}") from error
        raise


def _not_made_for(target: str) -> str:
    """Return the GPU's compute capability if the target's library does not support it, else an empty string."""
    if not TARGETS[target].compiled:
        return ""
    _, capability = runtime.name_and_capability()
    listed = tensorrt_library.load(target).is_made_for(capability)
    return "" if listed else f"{capability[0]}.{capability[1]}"


def _run(engine: Engine, inputs: Mapping[str, Tensor], *, keep_on_device: bool) -> dict[str, Array]:
    if engine.spec.name == FACE_DETECTOR:
        names = (tensor.name for tensor in engine.spec.outputs)
        return dict(zip(names, engine.run_positional(np.asarray(next(iter(inputs.values())))), strict=True))
    if not keep_on_device:
        return engine.run(inputs)
    outputs = engine.run(inputs, keep_on_device=True)
    return {name: t if isinstance(t, np.ndarray) else t.numpy() for name, t in outputs.items()}


def _widened(inputs: Mapping[str, Array], reference: Engine) -> dict[str, Array]:
    """Return the inputs in the reference's dtypes."""
    return {tensor.name: inputs[tensor.name].astype(tensor.dtype) for tensor in reference.spec.inputs}


def _judge(engines: Mapping[str, Mapping[str, Any]]) -> None:
    wrong = [f"{name}: {result['error']}" for name, result in engines.items() if "allowed" not in result]
    wrong += [
        f"{name} has a relative error of {result['error']:.2e} in {result['output']}; expected at most "
        f"{result['allowed']:.0e}"
        for name, result in engines.items()
        if "allowed" in result and not result["error"] <= result["allowed"]
    ]
    if wrong:
        raise CheckFailedError("; ".join(wrong)[:2000])
