"""Measure each CPU optimisation: an engine with it and the same engine without it, in alternating calls.

    python -m benchmarks.cpu.changes --preset half --threads 2 --loads 5 --json changes.json

The engines have random weights, 128 x 128 pixels and windows of 8 frames. The memory addresses of an engine make it up
to 5 % faster or slower until it is closed. Therefore both engines are loaded several times, and the pairs of all loads
count. Of optimisations that are about memory, the peak memory is measured too. The command also prints the shares of
operators in the denoiser's time, from ONNX Runtime's profiler.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime

from benchmarks.cpu.graphs import Call, Graphs, Pair
from benchmarks.cpu.pairs import QUIET, pair_figures
from benchmarks.cpu.session_memory import Sessions
from export.build.parity import relative_error
from export.checkpoint.presets import PRESETS
from export.networks.architecture import Architecture
from export.networks.config import UNetConfig
from export.onnx.lower_fused import SMALL_CONVOLUTION
from export.pocket.architecture import POCKET
from vexpress_rt.bundle.engine_spec import VideoShape

MODELS: dict[str, Architecture] = {**PRESETS, "pocket": POCKET}
SHAPE = VideoShape(128, 128, 8)
TURNS = 3  # pairs of calls of each load, after a warm-up
EQUAL = 2e-5  # of the largest value: rounding differences between two orders of the same sums
PROFILED = 5  # runs


@dataclass(frozen=True)
class Change:
    """An optimisation to measure.

    Attributes:
        name: Name in tables.
        words: Description of the optimisation and of the computation that it replaces.
        make: Returns the two calls.
        kept: Whether shipped engines have it.
        form: Name of an engine and one of `FORMS`; models without that form are not measured.
        memory: Returns the engines without and with the optimisation whose memory is measured; None for optimisations
            that are about speed alone.
        reason: Why it is kept, if another measurement shows that.
    """

    name: str
    words: str
    make: Callable[[Graphs], Pair]
    kept: bool = True
    form: tuple[str, str] | None = None
    memory: Callable[[Graphs], tuple[Sessions, Sessions]] | None = None
    reason: str = ""


def _of_form(name: str, words: str, engine: str, form: str) -> Change:
    def make(graphs: Graphs) -> Pair:
        return Pair(graphs.call(engine, leave_out=[form]), graphs.call(engine))

    return Change(name, words, make, form=(engine, form))


def _with_session(entries: Mapping[str, str], **attributes: Any) -> Callable[[Graphs], Pair]:
    """Return a pair for options that were not kept: the engine as it ships is the call without them."""
    return lambda graphs: Pair(graphs.call("denoiser"), graphs.session_call("denoiser", entries, **attributes))


def _without_session(entries: Mapping[str, str], **attributes: Any) -> Callable[[Graphs], Pair]:
    return lambda graphs: Pair(graphs.session_call("denoiser", entries, **attributes), graphs.call("denoiser"))


IN_TURN = ("pose_guider", "denoiser", "vae_decoder")  # engines that run in a row, as in a video


def _memory_of_options(entries: Mapping[str, str], **attributes: Any) -> Callable[[Graphs], tuple[Sessions, Sessions]]:
    """Return the engines of IN_TURN with options in place of the runtime's, and with the runtime's."""

    def sessions(graphs: Graphs) -> tuple[Sessions, Sessions]:
        paths = [str(graphs.path(name)) for name in IN_TURN]
        return Sessions(paths, entries, attributes), Sessions(paths)

    return sessions


def _in_turn(graphs: Graphs) -> Pair:
    """Return a pair of runs of several engines in a row, as in a video."""
    spinning = [graphs.session_call(name, {"session.intra_op.allow_spinning": "1"}) for name in IN_TURN]
    sleeping = [graphs.call(name) for name in IN_TURN]
    return Pair(lambda: _run_all(spinning), lambda: _run_all(sleeping))


def _run_all(calls: Sequence[Call]) -> list[Any]:
    return [output for call in calls for output in call()]


OWN_ALLOCATOR = {"session.use_env_allocators": "0"}
EXTENDED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
CHANGES = (
    Change("algebra", "denoiser: the photo's keys and values are inputs, and the unconditional pass skips attention to "
           "photo and speech; without: upstream's order, with the same fused kernels",
           lambda graphs: Pair(graphs.upstream_call(), graphs.call("denoiser"), equal=False)),
    _of_form("attention", "denoiser: MultiHeadAttention; without: MatMul, Softmax, MatMul",
             "denoiser", "multi_head_attention"),
    _of_form("GEGLU", "denoiser: two products and BiasGelu; without: one product, Split, Gelu",
             "denoiser", "gated_linear"),
    _of_form("Winograd, denoiser", "denoiser: 3x3 convolutions of many channels as matrix products; without: Conv",
             "denoiser", SMALL_CONVOLUTION),
    _of_form("Winograd, decoder", "VAE decoder: the same", "vae_decoder", SMALL_CONVOLUTION),
    _of_form("doubled, denoiser", "denoiser: upsampling by four 2x2 convolutions and DepthToSpace; without: Resize and "
             "one 3x3 convolution", "denoiser", "doubled_conv"),
    _of_form("doubled, decoder", "VAE decoder: the same", "vae_decoder", "doubled_conv"),
    Change("layout", "denoiser: channel-blocked convolutions (ONNX Runtime's highest level of optimisation)",
           _without_session({}, graph_optimization_level=EXTENDED)),
    Change("arena", "denoiser: an arena keeps memory between runs; without: malloc (memory of guider, denoiser and "
           "decoder in turn)",
           _without_session(OWN_ALLOCATOR, enable_cpu_mem_arena=False),
           memory=_memory_of_options(OWN_ALLOCATOR, enable_cpu_mem_arena=False)),
    Change("one arena", "denoiser: all engines share one arena; without: one arena per engine (memory of guider, "
           "denoiser and decoder in turn)",
           _without_session(OWN_ALLOCATOR), memory=_memory_of_options(OWN_ALLOCATOR)),
    Change("packed weights", "denoiser: its own copy of the weights, packed for the kernels; without: weights that "
           "engines share (`share_weights`)", _without_session({"session.disable_prepacking": "1"})),
    Change("threads sleep", "guider, denoiser and decoder in turn: threads sleep while they wait; without: they spin, "
           "also after each run (ONNX Runtime's default)", _in_turn, reason="faster on a crowded machine"),
    Change("spinning", "denoiser: threads spin within a run, and stop after it; faster on an idle machine, slower on a "
           "crowded one (`benchmarks.cpu.crowd`)",
           _with_session({"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"}), kept=False),
    Change("memory patterns", "denoiser: one allocation for all intermediate results",
           _with_session({}, enable_mem_pattern=True), kept=False),
    Change("I/O binding", "denoiser: bound inputs and outputs", _with_session({}, bound=True), kept=False),
)  # fmt: skip


def measure(change: Change, graphs: Graphs, loads: int) -> dict[str, Any]:
    """Measure one optimisation.

    Args:
        change: The optimisation.
        graphs: Engines with and without it.
        loads: Number of times that both engines are loaded.

    Returns:
        A row of the table: `pair_figures` with names, the largest relative error, and `memory`: bytes without and with
        the optimisation, for changes that are about memory.

    Raises:
        ArithmeticError: The results differ by more than rounding.
    """
    times: dict[bool, list[float]] = {True: [], False: []}
    error = None
    for _ in range(loads):
        pair = change.make(graphs)
        outputs = {}
        for turn in range(1 + TURNS):
            for ours, call in ((False, pair.without), (True, pair.with_it)):
                time.sleep(QUIET)
                started = time.perf_counter()
                outputs[ours] = call()
                if turn > 0:
                    times[ours].append(time.perf_counter() - started)
        if pair.equal:
            error = max(error or 0.0, *map(relative_error, outputs[True], outputs[False]))
            if not error <= EQUAL:
                raise ArithmeticError(
                    f"{change.name} changes results by {error:.1e} of the largest value; expected at most {EQUAL:.0e}"
                )
    figures = pair_figures(times[True], times[False])
    row = {"what": change.name, "words": change.words, "kept": change.kept, "error": error, **figures}
    if change.reason:
        row["reason"] = change.reason
    if change.memory is not None:
        row["memory"] = dict(
            zip(("without", "with"), (s.peak(graphs.threads) for s in change.memory(graphs)), strict=True)
        )
    return row


def shares(events: Sequence[Mapping[str, Any]], unet: UNetConfig, frames: int) -> dict[str, float]:
    """Return the share of each kind of operator in the time of all nodes, in descending order.

    Args:
        events: Node events of ONNX Runtime's profiler.
        unet: Configuration of the denoiser.
        frames: Frames of a window.
    """
    spent: dict[str, float] = defaultdict(float)
    for event in events:
        spent[_kind(event["args"], unet, frames)] += event["dur"]
    total = sum(spent.values())
    return {kind: time / total for kind, time in sorted(spent.items(), key=lambda item: -item[1])}


PRODUCTS = ("Gemm", "MatMul", "FusedMatMul", "FusedGemm")
OTHERS = {
    "Conv": "convolutions", "MultiHeadAttention": "attention", "Transpose": "transposes", "ReorderInput": "transposes",
    "ReorderOutput": "transposes", "InstanceNormalization": "normalisations", "LayerNormalization": "normalisations",
    "QuickGelu": "activations", "BiasGelu": "activations", "Gelu": "activations", "Add": "sums and factors",
    "Mul": "sums and factors",
}  # fmt: skip


def _kind(args: Mapping[str, Any], unet: UNetConfig, frames: int) -> str:
    shape = [size for kind in args.get("input_type_shape", [])[:1] for size in next(iter(kind.values()))]
    if args["op_name"] in PRODUCTS:
        if shape[:1] == [1] and len(shape) == 2:
            return "time embeddings"
        if shape[:1] == [frames] and shape[-1] == unet.cross_attention_dim:
            return "keys and values of the audio tokens"
        return "products"
    return OTHERS.get(args["op_name"], "the rest")


def measure_all(
    model: str, threads: int, loads: int, folder: Path, wanted: Sequence[Change], *, profile: bool = True
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, figures) of each optimisation, and last of "profile".

    Args:
        model: One of MODELS.
        threads: CPU threads.
        loads: Number of times that engines are loaded, per optimisation.
        folder: Folder for the engines' files.
        wanted: The optimisations to measure.
        profile: Whether to measure the shares of operators.
    """
    architecture = MODELS[model]
    graphs = Graphs(architecture, SHAPE, folder, threads)
    for change in wanted:
        if change.form is None or graphs.has(*change.form):
            yield change.name, measure(change, graphs, loads)
    if profile:
        yield "profile", shares(graphs.profile("denoiser", PROFILED), architecture.unet, SHAPE.frames)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure each CPU optimisation.")
    parser.add_argument("--preset", choices=sorted(MODELS), default="half")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loads", type=int, default=5, help="number of loads of both engines, per optimisation (5)")
    parser.add_argument(
        "--only",
        nargs="*",
        default=[],
        choices=[change.name for change in CHANGES],
        metavar="NAME",
        help="measure only these optimisations",
    )
    words = "speed: optimisations for speed, and the shares of operators; memory: those that are about memory"
    parser.add_argument("--kind", choices=["speed", "memory"], help=words)
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(arguments)
    kinds = {change.name: "speed" if change.memory is None else "memory" for change in CHANGES}
    wanted = [
        change
        for change in CHANGES
        if (not options.only or change.name in options.only) and options.kind in (None, kinds[change.name])
    ]
    profiled = not options.only and options.kind != "memory"
    rows, profile = [], {}
    with TemporaryDirectory() as folder:
        given = (options.preset, options.threads, options.loads, Path(folder), wanted)
        for name, figures in measure_all(*given, profile=profiled):
            if name == "profile":
                profile = figures
                print(", ".join(f"{kind} {share:.1%}" for kind, share in profile.items()))
                continue
            rows.append(figures)
            ratio = figures["ratio"]
            print(
                f"{name:20} {figures['theirs']['median'] * 1e3:8.1f} -> {figures['ours']['median'] * 1e3:8.1f} ms, "
                f"x {ratio['median']:.3f} ({ratio['low_quartile']:.3f} to {ratio['high_quartile']:.3f})",
                flush=True,
            )
    if options.json:
        figures = {"model": options.preset, "rows": rows, "profile": profile}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
