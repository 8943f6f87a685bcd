"""Compare the CUDA kernels with their reference implementations bit for bit, and time them at full size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.gpu.measure import measure, summary
from benchmarks.gpu.parts import CheckFailedError, Figures, ReportFigures
from tests.support.device_cases import CASES, DeviceArena, check_captured_step
from tests.support.kernel_cases import Arena, Step, random_picture
from vexpress_rt.native import device_kernels
from vexpress_rt.native.device_kernels import Kernels, Stream

FRAMES, LATENT, PIXELS = 24, 4 * 64 * 64, 512  # of the full model: frames of a window, values of a latent, frame side


def check(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Run every case of `tests.support.device_cases` on the GPU, and time the kernels.

    Args:
        options: None are used.
        report: Called with the results of the cases.

    Raises:
        CheckFailedError: Cases differ; the message names them.
        BackendMissingError: The kernels were not built.
    """
    del options
    kernels = device_kernels.load()
    cases = run_cases(kernels, DeviceArena, {**CASES, "guided_step in a CUDA graph": check_captured_step})
    report(cases)
    if wrong := [name for name, result in cases["cases"].items() if result != "equal"]:
        raise CheckFailedError(f"{len(wrong)} of {len(cases['cases'])} cases differ from NumPy: {'; '.join(wrong)}")
    with ExitStack() as stack:
        arena = DeviceArena(stack)
        return cases | {"seconds": time_kernels(kernels, arena, arena.stream.synchronize)}


def run_cases(
    kernels: Kernels, make_arena: Callable[[ExitStack], Any], cases: Mapping[str, Callable[[Kernels, Any], None]]
) -> Figures:
    """Run cases, each with its own arena; return {"cases": {name: "equal" or the difference}}."""
    results = {}
    for name, case in cases.items():
        try:
            with ExitStack() as stack:
                case(kernels, make_arena(stack))
            results[name] = "equal"
        except AssertionError as error:
            results[name] = " ".join(str(error).split())[:500]
    return {"cases": results}


def time_kernels(kernels: Kernels, arena: Arena, synchronize: Callable[[], None]) -> dict[str, Any]:
    """Time one launch and execution of each kernel at full size; return `measure.summary` by name."""
    step = Step.random(frames=FRAMES, values=LATENT)
    state, totals, unconditional, conditional = (
        arena.put(array)
        for array in (step.state, step.totals, np.asarray(step.unconditional), step.conditional)
    )  # fmt: skip
    expected, corrected = arena.put(step.totals[0]), arena.put(np.zeros_like(step.conditional))
    weights = np.ones(FRAMES, np.float32)
    frames = [arena.put(random_picture(PIXELS, PIXELS, 3, seed=seed)) for seed in range(3)]
    picture = arena.put(np.zeros((PIXELS, PIXELS, 3), np.uint8))
    nv12 = arena.put(np.zeros((PIXELS * 3 // 2, PIXELS), np.uint8))
    stream: Stream = arena.stream
    size = {"height": PIXELS, "width": PIXELS, "stream": stream}
    launches: dict[str, Callable[[], None]] = {
        "guided_step": lambda: kernels.guided_step(
            state, totals, unconditional, conditional,
            values=LATENT, slots=len(step.totals), updates=step.updates, scale=step.scale,
            coefficients=step.coefficients, stream=stream,
        ),
        "correct_predictions": lambda: kernels.correct_predictions(
            unconditional, conditional, expected, corrected,
            values=LATENT, frame=0, weights=weights, scale=step.scale, stream=stream,
        ),
        "median_3x3x3": lambda: kernels.median_3x3x3(*frames, picture, **size),
        "rgb_to_nv12": lambda: kernels.rgb_to_nv12(frames[0], nv12, **size),
    }  # fmt: skip

    def timed(launch: Callable[[], None]) -> dict[str, Any]:
        def once() -> None:
            launch()
            synchronize()

        return summary(measure(once, seconds=0.3))

    return {name: timed(launch) for name, launch in launches.items()}
