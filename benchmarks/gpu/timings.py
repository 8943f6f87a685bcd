"""Time each engine, a window-step and a whole video; the same functions time the PyTorch modules."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.bundles import require
from benchmarks.gpu.compare import PSNR_LEAST, psnr
from benchmarks.gpu.engines import draw_inputs, not_finite, opened
from benchmarks.gpu.files import compare_file, fault
from benchmarks.gpu.measure import measure, summary
from benchmarks.gpu.parts import CheckFailedError, Figures, ReportFigures
from benchmarks.gpu.scene import RATE, Scene, draw_scene, facts, make_video
from vexpress_rt.backends.base import Array, Engine, Tensor
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.executor import becomes_array
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, ONLY_TENSORRT
from vexpress_rt.pipeline import device_operations
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.types import UInt8, Video

SPEECH_SECONDS = 5  # of the audio encoder's input
PAIRS = 3  # number of pairs of videos; the difference within a pair is the time of window-steps
SHORT, LONG = 2, 6  # steps of both videos of a pair
WINDOWS = 2  # windows of the whole video
ENGINE_SECONDS, VIDEO_SECONDS = 1.0, 20.0  # durations of the measurement of an engine, and of whole videos

Outputs = Mapping[str, Tensor]
MakeVideo = Callable[[Scene, int, Path | None], Video]


def measure_bundle(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Time a bundle.

    Args:
        options: {bundle, work: folders; provider, target; steps: of the whole video; name: of its files in `work`}.
        report: Called with the figures so far.

    Raises:
        CheckFailedError: See `judge`.
        VExpressError: Any error of the runtime.
    """
    bundle = Bundle.open(options["bundle"])
    figures: Figures = {"library": require(options["provider"], options["target"])}
    with opened(bundle, options["provider"]) as engines:
        figures["describe"] = engines.describe(device_operations.describe_latents(on_gpu=engines.provider.on_gpu))
        figures["engines"] = {}
        for name, result in time_engines(engines.get, wait):
            figures["engines"][name] = result
            report(figures)
        figures |= memory_in_use()
    with Generator(bundle.folder, provider=options["provider"], rebuild="never") as generator:
        shape = bundle.manifest.shape
        size = (shape.height, shape.width, shape.frames)
        time_videos(partial(make_video, generator), size, options, figures, report)
    judge(figures, bundle.manifest.precision)
    return figures


def time_engines(
    get: Callable[[str], Engine], finish: Callable[[Outputs], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and times of every engine: `measure.summary` of a run, with the times of loading and of the first run.

    As in use, outputs stay on the device as inputs of later engines, and all other inputs come from the host.
    `not_finite` names the outputs with NaN or infinite values.

    Args:
        get: Returns an engine by name.
        finish: Waits until outputs are computed.
    """
    outputs: dict[str, Tensor] = {}  # of all engines so far, by name; some are inputs of later engines
    for name in ENGINE_NAMES:
        started = time.perf_counter()
        engine = get(name)
        loading = time.perf_counter() - started
        inputs = {**timed_inputs(engine), **{t.name: outputs[t.name] for t in engine.spec.inputs if t.name in outputs}}

        def run(engine: Engine = engine, inputs: Mapping[str, Tensor] = inputs) -> Outputs:
            computed = engine.run(inputs, keep_on_device=True)
            finish(computed)
            return computed

        started = time.perf_counter()
        outputs = {**run(), **outputs}
        first = time.perf_counter() - started
        times = summary(measure(run, seconds=ENGINE_SECONDS))
        wrong = broken_outputs(engine, inputs)
        yield name, {**times, "load_seconds": loading, "first_run_seconds": first, "not_finite": wrong}


def broken_outputs(engine: Engine, inputs: Mapping[str, Tensor]) -> list[str]:
    """Run once more and return the names of outputs that are not finite; none with bfloat16, which NumPy lacks."""
    if not all(becomes_array(tensor.dtype) for tensor in engine.spec.outputs):
        return []
    return not_finite(engine.run(inputs))


def timed_inputs(engine: Engine) -> dict[str, Array]:
    """Return random inputs of an engine; the audio encoder gets SPEECH_SECONDS of sound."""
    inputs = draw_inputs(engine, seed=0)
    if "samples" in inputs:
        samples = np.random.default_rng(0).standard_normal((1, SPEECH_SECONDS * RATE))
        inputs["samples"] = samples.astype(np.float32)
    return inputs


def wait(outputs: Outputs) -> None:
    """Wait until outputs on the GPU are computed; those of one run are ready together."""
    for tensor in outputs.values():
        if (ready := getattr(tensor, "ready", None)) is not None:
            ready.synchronize()


def memory_in_use() -> dict[str, int]:
    """Return the bytes of GPU memory in use by all processes; empty without a GPU."""
    if runtime.count() == 0:
        return {}
    free, total = runtime.memory()
    return {"device_memory_bytes": total - free}


def time_videos(
    make: MakeVideo, size: tuple[int, int, int], options: Mapping[str, Any], figures: Figures, report: ReportFigures
) -> None:
    """Add the figures of a window-step and of a whole video of WINDOWS windows, and report them as they come.

    Args:
        make: Makes the video of a scene, as `scene.make_video` does.
        size: (height, width, frames of a window).
        options: {work: folder; steps: of the whole video; name: of the files that stay in `work`}.
        figures: Receives the figures.
        report: Called with the figures so far.
    """
    work, name = Path(options["work"]), options["name"]
    figures["window_step"] = time_window_step(make, draw_scene(*size, windows=1))
    report(figures)
    scene = draw_scene(*size, windows=WINDOWS)
    figures["video"], frames = time_whole(make, scene, options["steps"], work / f"{name}.mp4")
    np.save(work / f"{name}.frames.npy", frames)
    torch_frames = work / "torch-eager.frames.npy"
    if name != "torch-eager" and torch_frames.is_file():
        figures["video"]["psnr_to_torch_eager"] = psnr(frames, np.load(torch_frames))
    report(figures)


def judge(figures: Figures, precision: str) -> None:
    """Raise CheckFailedError unless the timed engines and videos give plausible results.

    Outputs of engines must be finite, the video must have more than one grey level, and its file no `fault`. If there
    is a video of PyTorch in eager mode, the PSNR to it must reach PSNR_LEAST, except in bfloat16, which has eight bits
    of mantissa.
    """
    video = figures["video"]
    wrong = [
        f"engine {name} gives values that are not finite in {', '.join(times['not_finite'])}"
        for name, times in figures["engines"].items()
        if times["not_finite"]
    ]
    if video["grey_levels"] == 1:
        wrong.append("the video has a single grey level")
    if why := fault(video["file"]):
        wrong.append(why)
    near = video.get("psnr_to_torch_eager", PSNR_LEAST)
    if precision != ONLY_TENSORRT and not near >= PSNR_LEAST:
        wrong.append(f"PSNR of {near:.1f} dB to the video of torch; expected at least {PSNR_LEAST:.0f}")
    if wrong:
        raise CheckFailedError("; ".join(wrong)[:2000])


def time_window_step(make: MakeVideo, scene: Scene) -> dict[str, Any]:
    """Return `measure.summary` of the seconds of one step of one window.

    Two videos of one window differ only in their number of steps, so the difference of their times is that of the
    steps, wherever the host waits for the GPU.
    """

    def seconds(steps: int) -> float:
        return float(make(scene, steps, None).timings["total"])

    for steps in (SHORT, LONG):
        seconds(steps)
    return summary([(seconds(LONG) - seconds(SHORT)) / (LONG - SHORT) for _ in range(PAIRS)])


def time_whole(make: MakeVideo, scene: Scene, steps: int, output: Path) -> tuple[dict[str, Any], UInt8]:
    """Return the times of a video from photo and speech to a file, by stage and in total, and its frames (L, H, W, 3).

    The videos of the window-step are the warm-up. The timed videos are written and do not keep their frames, as a user
    makes them. One more video, not timed, keeps its frames: `file` is `compare_file` of the last written video.
    Stages of the runtime are the host's time: the host waits for the GPU where it needs a result, so one stage may wait
    for work that another enqueued. PyTorch synchronizes at the end of each stage.
    """
    videos: list[Video] = []
    totals = measure(
        lambda: videos.append(make(scene, steps, output)), warmup=0, seconds=VIDEO_SECONDS, least=1, most=3
    )
    kept = make(scene, steps, None)
    file = compare_file(output, kept, scene.config(steps))
    output.unlink()
    made, frames = facts(scene, steps), kept.frames
    assert frames is not None
    return {
        **made,
        "seconds": summary(totals),
        "stages": median_stages([video.timings for video in videos]),
        "seconds_for_a_second_of_video": float(np.median(totals)) / made["seconds_of_video"],
        "file": file,
        "grey_levels": len(np.unique(frames)),
    }, frames


def median_stages(stages: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median seconds of each stage."""
    return {name: float(np.median([times[name] for times in stages])) for name in stages[0]}
