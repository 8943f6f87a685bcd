"""The page: sections of what was measured, each with what was not, and why."""

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

# Title, the kinds of parts that it is made of, its table, its plot, and what is to be known of it.
SECTIONS: tuple[tuple[str, tuple[str, ...], Callable[[Parts], Lines], str, str], ...] = (
    ("Engines", ("engines",), engines_table, "",
     "A call of each engine of the small model, beside the module that the plain pipeline has in its place."),
    ("A window-step", ("window-step",), window_step_table, "",
     "One step of one window: both halves of guidance, and the sampler's step. PyTorch projects the photo's keys and "
     "values anew in each, as upstream does."),
    ("What each change is worth", ("changes",), changes_table, "",
     "An engine with one of the ways of making the CPU faster, beside the same engine without it, each loaded several "
     "times. All give the same values but for rounding, which each run checks, except for `algebra`, whose two engines "
     "have different inputs (`tests/test_cpu_pipeline.py` does). What brought neither speed nor memory was not kept."),
    ("Weights in memory", ("loading",), loading_table, "",
     "Both denoisers of the half-width model in one process (with --quick of the small one), each with a copy of the "
     "weights that is packed for the kernels, and sharing one (`share_weights`)."),
    ("Native kernels", ("native",), native_table, "", "C++ beside its twin in NumPy."),
    ("Time to first frame", ("first-frame",), first_frame_table, "",
     "Of the small model, from a prepared photo and speech; `step_major` is upstream's order of windows and steps. "
     "PyTorch's first frame comes when its whole video is there: see the minute under *Cost over length*."),
    ("Cost over length", ("videos",), lengths_table, "length.png",
     "Whole videos from photo and speech to frames, beside the plain pipeline on the same weights and noise. *Equal "
     "bytes* is the share of the frames' bytes that are the same in both; the others are at most so far apart."),
    ("Latency by stage", ("videos",), stages_table, "stages.png",
     "Seconds of each stage of the videos above, medians. PyTorch's median filter is upstream's, in PyTorch."),
    ("Memory over length", ("memory",), memory_table, "memory.png",
     "The most memory of a process that makes a video of the small model, the engines' included, at 5 frames a second "
     "and 2 steps: what grows is what counts."),
    ("Quality over speed", ("quality",), quality_table, "quality.png",
     "The presets on drawn people that training never saw, against a long reference with the same noise. *lips*: "
     "correlation of the mouth's opening with the speech; *nose*: from where the keypoints have it, median and 95 % of "
     "frames, as a share of the width."),
    ("Live", ("live",), live_table, "",
     "Sound that arrives in chunks on a clock, in 4 steps without guidance; see `benchmarks/live`."),
)  # fmt: skip

MEASURED = ("started", "commit", "cpu")  # what is told of the run that a part was measured in
# What is asked for: in words, the figure, the least it may be.
GOALS: tuple[tuple[str, str, Callable[[Parts], float | None], float], ...] = (
    ("cpu_ratio", "plain PyTorch's time for a video of the half-width model, 128 x 128, over ours",
     lambda parts: _ratio(parts, "videos/half"), 1.75),
    ("first_frame", "first frame of a long clip: `step_major`'s time over `wavefront`'s",
     lambda parts: _ratio(parts, "first-frame"), 15.0),
    ("fast", "plain PyTorch's time for such a video as published, over ours with the preset `fast`",
     lambda parts: _ratio(parts, "videos/half", "fast"), 4.0),
    ("memory", "the most memory for the shortest speech over that for the longest",
     lambda parts: _memory(parts), 1 / 1.05),
    ("live_memory", "live: memory after a fifth of the time over that in the end",
     lambda parts: _live_memory(parts), 1 / 1.05),
    ("live_sound", "live: share of frames that carry the sound of their time",
     lambda parts: _live_sound(parts), 1.0),
)  # fmt: skip


def goals(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """What is asked for and what was found, for the JSON."""
    parts = {name: outcome.to_json() for name, outcome in outcomes.items()}
    found = {name: (least, figure(parts)) for name, _, figure, least in GOALS}
    return {
        "goals": {
            name: {"at_least": least, "found": value, "reached": value is not None and value >= least}
            for name, (least, value) in found.items()
        }
    }


def write_page(data: Mapping[str, Any], folder: Path) -> None:
    """PAGE in `folder`, and its plots, from what the JSON holds."""
    drawn = plots.draw(data["parts"], folder)
    (folder / PAGE).write_text(page(data, drawn), encoding="utf-8")


def page(data: Mapping[str, Any], drawn: tuple[str, ...] = ()) -> str:
    """Markdown. drawn: names of the plots that lie beside it."""
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
    took = f", {run['seconds'] / 60:.0f} minutes" if "seconds" in run else ", not to its end"
    size = ", quick: small sizes and few rounds" if run["quick"] else ""
    return (
        f"{run['started']} on {run['cpu']}, commit {run['commit'][:12]}, {run['threads']} threads for each "
        f"side{size}{took}: {', '.join(run['parts'])}"
    )


def _goals(parts: Parts) -> Lines:
    rows = []
    for _, words, figure, least in GOALS:
        value = figure(parts)
        verdict = "not measured" if value is None else "reached" if value >= least else "MISSED"
        rows.append([words, f"at least {least:g}", "" if value is None else f"{value:.2f}", verdict])
    return ["## What is asked for", "", *markdown(["", "asked", "found", ""], rows)]


def _missing(parts: Parts, kinds: tuple[str, ...]) -> Lines:
    """Parts that did not end well, and those that they need."""
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
        "## How",
        "",
        "Ours and PyTorch's by turns, in one process, after warm-ups; medians. *times as fast* is the median of the "
        "turns' ratios, with their quartiles. `benchmarks/README.md` says more.",
        "",
        *markdown(["part", "took", *MEASURED], took),
    ]


def _ratio(parts: Parts, name: str, test: str = "") -> float | None:
    """Of the first test of a part whose name holds `test`."""
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
    """What live mode's run on a clock told; nothing if there was none."""
    found: Mapping[str, Any] = parts.get("live", {}).get("figures", {}).get("clock", {})
    return found
