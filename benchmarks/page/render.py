"""Write the page: a section for each kind of measurement, with the parts that are missing and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import OK
from benchmarks.page import plots
from benchmarks.page.tables import (
    Lines,
    changes_table,
    cold_start_table,
    crowd_table,
    engines_table,
    first_frame_table,
    lengths_table,
    live_table,
    loading_table,
    markdown,
    memory_table,
    native_table,
    precision_table,
    quality_table,
    stages_table,
    window_step_table,
)
from benchmarks.page.targets import targets_table

Parts = Mapping[str, Mapping[str, Any]]  # of the JSON, by name
PAGE = "README.md"

# Title, kinds of parts that it shows, its table, its plot, and an introduction.
SECTIONS: tuple[tuple[str, tuple[str, ...], Callable[[Parts], Lines], str, str], ...] = (
    ("Engines", ("engines",), engines_table, "",
     "One call of each engine of the small model, compared with the PyTorch module of the plain pipeline."),
    ("A window-step", ("window-step",), window_step_table, "",
     "One step of one window: the conditional and the unconditional pass, and the sampler's step. PyTorch projects the "
     "photo's keys and values in every step, as upstream does; under autocast it keeps bfloat16 copies of the weights. "
     "*Signal to noise*: of the latents after the step, compared with those of PyTorch in fp32."),
    ("CPU optimisations", ("changes",), changes_table, "",
     "An engine with one optimisation, compared with the same engine without it; each is loaded several times. Results "
     "are equal up to rounding, which every run checks; the engines of `algebra` have different inputs, and "
     "`tests/benchmarks/test_cpu_pipeline.py` compares their videos. An optimisation that improved neither speed nor "
     "memory on any measured machine was not kept. *Faster*: the lower quartile of the speed-ups is above 1."),
    ("Weights in memory", ("loading",), loading_table, "",
     "Both denoisers of the half-width model in one process (with `--quick`: of the small model), each with its own "
     "copy of the weights, packed for the kernels, or sharing one copy (`share_weights`)."),
    ("Native kernels", ("native",), native_table, "", "C++ compared with its reference implementation in NumPy."),
    ("Time to first frame", ("first-frame",), first_frame_table, "",
     "The small model, from a prepared photo and speech. `step_major` is upstream's order of windows and steps. "
     "PyTorch's first frame is available when its whole video is: see the 60 s row under *Cost over length*."),
    ("Cost over length", ("videos",), lengths_table, "length.png",
     "Whole videos, from photo and speech to frames, on all sides from the same weights and noise. PyTorch runs the "
     "plain pipeline, in eager mode and in upstream's order. PSNR, *equal bytes* (the share of the frames' bytes) and "
     "*largest difference* (of two bytes, 0 to 255) compare with the video of PyTorch in fp32. The preset `fast` takes "
     "fewer steps of another sampler than the side with which it is compared."),
    ("Latency by stage", ("videos",), stages_table, "stages.png",
     "Median seconds of each stage of the videos above. PyTorch runs upstream's median filter."),
    ("Cold start", ("cold-start",), cold_start_table, "",
     "From the start of a process to the first frame: one window of one step; files of bundle and cache are dropped "
     "from the page cache before each process. The first process fills an empty cache folder; the second one finds it "
     "full. *shipped* is the bundle in the package."),
    ("Crowded machine", ("crowd",), crowd_table, "",
     "Videos of 17 frames of the small model with the preset `fast`, beside busy loops and other videos: seconds / CPU "
     "seconds, by the way in which the threads of engines wait. *Processes x streams*: processes with a `Generator`, "
     "and videos that each makes at once."),
    ("Memory over length", ("memory",), memory_table, "memory.png",
     "Peak memory of a process that makes a video with the small model, including the engines. The video has 5 frames "
     "a second and 2 steps, because only the growth with the length matters."),
    ("Precision", ("precision",), precision_table, "",
     "The shipped model with its recommended settings, on drawn people that were not in the training data. PSNR "
     "compares with the video of provider `cpu`. *lips*: correlation of the mouth's opening with the speech, median of "
     "people; *largest change of lips*: of a person, from provider `cpu`. *nose*: median distance of the nose from its "
     "keypoint, as a share of the width."),
    ("Quality over speed", ("quality",), quality_table, "quality.png",
     "The presets on drawn people that were not in the training data, compared with a reference of many steps and the "
     "same noise. *lips*: correlation of the mouth's opening with the speech. *nose*: distance of the nose from its "
     "keypoint, median and 95th percentile of frames, as a share of the width."),
    ("Live", ("live",), live_table, "",
     "Sound arrives in chunks on a clock. `benchmarks/README.md` documents each row."),
)  # fmt: skip

MEASURED = ("started", "commit", "cpu")  # facts about the run that measured a part


def write_page(data: Mapping[str, Any], folder: Path) -> None:
    """Write PAGE and its plots into a folder, from the data of the JSON."""
    drawn = plots.draw(data["parts"], folder)
    (folder / PAGE).write_text(page(data, drawn), encoding="utf-8")


def page(data: Mapping[str, Any], drawn: tuple[str, ...] = ()) -> str:
    """Return the page as Markdown.

    Args:
        data: Content of the JSON.
        drawn: Names of the plots in the same folder.
    """
    parts = data["parts"]
    lines = [f"# {data['machine']['cpu']}", "", *_head(data), "", "## Targets", "", *targets_table(data), ""]
    for title, kinds, table, plot, about in SECTIONS:
        lines += [f"## {title}", "", about, ""]
        for block in (table(parts), _missing(parts, kinds)):
            lines += [*block, ""] if block else []
        if plot in drawn:
            lines += [f"![{title}]({plot})", ""]
    return "\n".join([*lines, *_how(data)]).rstrip() + "\n"


def _head(data: Mapping[str, Any]) -> Lines:
    machine = data["machine"]
    note = [f"* {machine['note']}"] if "note" in machine else []
    return [
        "All figures of this page are of this machine; [the index](../README.md) compares machines.",
        "",
        f"* Machine: {size(machine)}; {machine['system']}",
        f"* Instruction sets: {', '.join(machine['instructions']) or 'not recorded'}",
        *note,
        f"* Versions: {versions(machine)}",
        f"* Commit: {machine['commit']}",
        *(f"* Measured {_run(run)}" for run in data["runs"]),
    ]


def size(machine: Mapping[str, Any]) -> str:
    """Return the machine's CPU, cores and memory as text."""
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB"


def versions(machine: Mapping[str, Any]) -> str:
    """Return the versions of the libraries that compute, as text."""
    names = ("python", "vexpress_rt", "onnxruntime", "openvino", "torch", "numpy")
    return ", ".join(f"{name} {machine['versions'][name]}" for name in names if name in machine["versions"])


def _run(run: Mapping[str, Any]) -> str:
    took = f", {run['seconds'] / 60:.0f} minutes" if "seconds" in run else ", interrupted"
    size = " (`--quick`: small sizes and few rounds)" if run["quick"] else ""
    return (
        f"{run['started']} on {run['cpu']}, commit {run['commit'][:12]}, {run['threads']} threads for each "
        f"side{size}{took}: {', '.join(run['parts'])}"
    )


def _missing(parts: Parts, kinds: tuple[str, ...]) -> Lines:
    """Return the parts of these kinds that have no figures, with reasons."""
    lines = []
    for name, part in parts.items():
        if name.partition("/")[0] in kinds and part["status"] != OK:
            reason = " ".join(part.get("reason", "").split())[:400]
            lines.append(f"* **{name}: {part['status']}**: {reason}")
    return lines


def _how(data: Mapping[str, Any]) -> Lines:
    took = [
        [name, f"{part.get('seconds', 0):.0f} s", *(part.get("measured", {}).get(fact, "")[:19] for fact in MEASURED)]
        for name, part in data["parts"].items()
        if part["status"] == OK
    ]
    return [
        "## Method",
        "",
        "Medians of alternating calls of all sides in one process, after warm-up. Speed-ups are the medians of the "
        "ratios of calls of one turn, with quartiles; a column *x PyTorch, fp32* has the speed-up over that side. "
        "`benchmarks/README.md` documents the method.",
        "",
        *markdown(["part", "duration", *MEASURED], took),
    ]
