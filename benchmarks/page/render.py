"""Write the page: a section for each kind of measurement, with the parts that are missing and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import OK, Outcome
from benchmarks.page import plots
from benchmarks.page.tables import (
    Lines,
    changes_table,
    engines_table,
    first_frame_table,
    lengths_table,
    live_table,
    loading_table,
    markdown,
    memory_table,
    native_table,
    quality_table,
    stages_table,
    window_step_table,
)

Parts = Mapping[str, Mapping[str, Any]]  # of the JSON, by name
PAGE = "README.md"

# Title, kinds of parts that it shows, its table, its plot, and an introduction.
SECTIONS: tuple[tuple[str, tuple[str, ...], Callable[[Parts], Lines], str, str], ...] = (
    ("Engines", ("engines",), engines_table, "",
     "One call of each engine of the small model, compared with the PyTorch module of the plain pipeline."),
    ("A window-step", ("window-step",), window_step_table, "",
     "One step of one window: the conditional and the unconditional pass, and the sampler's step. PyTorch projects the "
     "photo's keys and values in every step, as upstream does."),
    ("CPU optimisations", ("changes",), changes_table, "",
     "An engine with one optimisation, compared with the same engine without it; each is loaded several times. Results "
     "are equal up to rounding, which every run checks; the engines of `algebra` have different inputs, and "
     "`tests/benchmarks/test_cpu_pipeline.py` compares their videos. An optimisation that improved neither speed nor "
     "memory was not kept."),
    ("Weights in memory", ("loading",), loading_table, "",
     "Both denoisers of the half-width model in one process (with `--quick`: of the small model), each with its own "
     "copy of the weights, packed for the kernels, or sharing one copy (`share_weights`)."),
    ("Native kernels", ("native",), native_table, "", "C++ compared with its reference implementation in NumPy."),
    ("Time to first frame", ("first-frame",), first_frame_table, "",
     "The small model, from a prepared photo and speech. `step_major` is upstream's order of windows and steps. "
     "PyTorch's first frame is available when its whole video is: see the 60 s row under *Cost over length*."),
    ("Cost over length", ("videos",), lengths_table, "length.png",
     "Whole videos, from photo and speech to frames, compared with the plain pipeline on the same weights and noise. "
     "*Equal bytes* is the share of the frames' bytes that are equal in both videos; *largest difference* is the "
     "largest difference of two bytes, 0 to 255."),
    ("Latency by stage", ("videos",), stages_table, "stages.png",
     "Median seconds of each stage of the videos above. PyTorch runs upstream's median filter."),
    ("Memory over length", ("memory",), memory_table, "memory.png",
     "Peak memory of a process that makes a video with the small model, including the engines. The video has 5 frames "
     "a second and 2 steps, because only the growth with the length matters."),
    ("Quality over speed", ("quality",), quality_table, "quality.png",
     "The presets on drawn people that were not in the training data, compared with a reference of many steps and the "
     "same noise. *lips*: correlation of the mouth's opening with the speech. *nose*: distance of the nose from its "
     "keypoint, median and 95th percentile of frames, as a share of the width."),
    ("Live", ("live",), live_table, "",
     "Sound arrives in chunks on a clock; 4 steps without guidance. `benchmarks/README.md` documents each row."),
)  # fmt: skip

MEASURED = ("started", "commit", "cpu")  # facts about the run that measured a part
# Targets: name, description, measured figure, least value that reaches the target.
GOALS: tuple[tuple[str, str, Callable[[Parts], float | None], float], ...] = (
    ("cpu_ratio", "video of the half-width model, 128 x 128: PyTorch's time / ours",
     lambda parts: _ratio(parts, "videos/half"), 1.75),
    ("first_frame", "first frame of a long clip: time in `step_major` order / in `wavefront` order",
     lambda parts: _ratio(parts, "first-frame"), 15.0),
    ("fast", "the same video: PyTorch's time with the published settings / ours with the preset `fast`",
     lambda parts: _ratio(parts, "videos/half", "fast"), 4.0),
    ("memory", "peak memory: shortest speech / longest speech",
     lambda parts: _memory(parts), 1 / 1.05),
    ("live_memory", "live: memory after a fifth of the session / at its end",
     lambda parts: _live_memory(parts), 1 / 1.05),
    ("live_sound", "live: share of frames with the right samples and time",
     lambda parts: _live_sound(parts), 1.0),
)  # fmt: skip


def goals(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Return targets and measured figures for the JSON."""
    parts = {name: outcome.to_json() for name, outcome in outcomes.items()}
    measured = {name: (least, figure(parts)) for name, _, figure, least in GOALS}
    return {
        "goals": {
            name: {"at_least": least, "measured": value, "reached": value is not None and value >= least}
            for name, (least, value) in measured.items()
        }
    }


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
    lines = ["# Benchmarks on a CPU", "", *_head(data), "", *_goals(parts), ""]
    for title, kinds, table, plot, about in SECTIONS:
        lines += [f"## {title}", "", about, ""]
        for block in (table(parts), _missing(parts, kinds)):
            lines += [*block, ""] if block else []
        if plot in drawn:
            lines += [f"![{title}]({plot})", ""]
    return "\n".join([*lines, *_how(data)]).rstrip() + "\n"


def _head(data: Mapping[str, Any]) -> Lines:
    machine = data["machine"]
    names = ("python", "vexpress_rt", "onnxruntime", "torch", "numpy")
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in names if name in machine["versions"])
    return [
        f"* Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB; "
        f"{machine['system']}",
        f"* Versions: {versions}",
        f"* Commit: {machine['commit']}",
        *(f"* Measured {_run(run)}" for run in data["runs"]),
    ]


def _run(run: Mapping[str, Any]) -> str:
    took = f", {run['seconds'] / 60:.0f} minutes" if "seconds" in run else ", interrupted"
    size = " (`--quick`: small sizes and few rounds)" if run["quick"] else ""
    return (
        f"{run['started']} on {run['cpu']}, commit {run['commit'][:12]}, {run['threads']} threads for each "
        f"side{size}{took}: {', '.join(run['parts'])}"
    )


def _goals(parts: Parts) -> Lines:
    rows = []
    for _, words, figure, least in GOALS:
        value = figure(parts)
        verdict = "not measured" if value is None else "reached" if value >= least else "MISSED"
        rows.append([words, f"at least {least:.3g}", "" if value is None else f"{value:.2f}", verdict])
    return ["## Targets", "", *markdown(["ratio", "target", "measured", ""], rows)]


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
        "Medians of alternating calls of the runtime and PyTorch in one process, after warm-up. *speed-up* is the "
        "median of the ratios of neighbouring calls, with quartiles. `benchmarks/README.md` documents the method.",
        "",
        *markdown(["part", "duration", *MEASURED], took),
    ]


def _ratio(parts: Parts, name: str, test: str = "") -> float | None:
    """Return the ratio of the first test of a part whose name contains `test`."""
    rows = parts.get(name, {}).get("figures", {}).get("rows", [])
    found = [row["ratio"]["median"] for row in rows if test in row.get("test", "")]
    return float(found[0]) if found else None


def _memory(parts: Parts) -> float | None:
    peaks = [row["peak"] for row in parts.get("memory", {}).get("figures", {}).get("rows", [])]
    return peaks[0] / peaks[-1] if peaks else None


def _live_memory(parts: Parts) -> float | None:
    clock = _clock(parts)
    return clock["memory_mib"]["after_a_fifth"] / clock["memory_mib"]["in_the_end"] if clock else None


def _live_sound(parts: Parts) -> float | None:
    clock = _clock(parts)
    return 1 - clock["frames_with_wrong_sound_or_time"] / clock["frames"] if clock else None


def _clock(parts: Parts) -> Mapping[str, Any]:
    """Return the figures of live mode's run on a clock; empty if there are none."""
    found: Mapping[str, Any] = parts.get("live", {}).get("figures", {}).get("clock", {})
    return found
