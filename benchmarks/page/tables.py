"""Tables of the page, made from the figures of parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.cpu import crowd
from benchmarks.cpu.runtimes import AUTOCAST, CPU, PYTORCH, TITLES

Parts = Mapping[str, Mapping[str, Any]]
Lines = list[str]
Row = Mapping[str, Any]

PAIR = ("ours", "PyTorch", "speed-up", "quartiles", "pairs")
BASES = (PYTORCH, AUTOCAST, CPU)  # sides over which the speed-up of the others is given


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Lines:
    """Return the lines of a Markdown table; none without rows."""
    if not rows:
        return []
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(str, cells))} |" for cells in lines]


def figures(parts: Parts, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and figures of every part of a kind that has figures, including parts that failed later."""
    for name, part in parts.items():
        if name.partition("/")[0] == kind and "figures" in part:
            yield name, part["figures"]


def rows_of(parts: Parts, kind: str) -> list[Row]:
    """Return the measured rows of all parts of a kind."""
    return [row for _, found in figures(parts, kind) for row in found.get("rows", [])]


def seconds(value: float) -> str:
    """Format seconds with three digits, in s, ms or µs."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            scaled = value / size
            return f"{scaled:.0f} {unit}" if scaled >= 100 else f"{scaled:.3g} {unit}"
    return f"{value:.3g} s"


def pair(row: Row) -> list[str]:
    """Return the cells of PAIR."""
    ratio = row["ratio"]
    return [
        seconds(row["ours"]["median"]),
        seconds(row["theirs"]["median"]),
        f"**{ratio['median']:.2f}**",
        f"{ratio['low_quartile']:.2f} to {ratio['high_quartile']:.2f}" if ratio["count"] > 1 else "one pair",
        str(ratio["count"]),
    ]


def ratio(found: Mapping[str, Any] | None) -> str:
    """Format the summary of a ratio: its median, and of several turns its quartiles; empty for None."""
    if found is None:
        return ""
    quartiles = f" ({found['low_quartile']:.2f} to {found['high_quartile']:.2f})" if found["count"] > 1 else ""
    return f"**{found['median']:.2f}**{quartiles}"


def sides_table(rows: Sequence[Row], lead: Mapping[str, Any], further: Mapping[str, Any]) -> Lines:
    """Return a table of the sides of rows: a line for each side, and below it the sides that the machine cannot run.

    Args:
        rows: Rows of `suites.conftest.measure_sides`.
        lead: Column names, and functions of a row that return their cells, for the first columns.
        further: The same for columns after the speed-ups; the functions take the figures of a side.
    """
    bases = [base for base in BASES if any(base in row["sides"] for row in rows)]
    head = [*lead, "side", "precision", "time", *(f"x {TITLES[base]}" for base in bases), *further, "turns"]
    cells, missing = [], []
    for row in rows:
        for name, title in TITLES.items():
            if (side := row["sides"].get(name)) is not None:
                speedups = row["speedups"][name]
                cells.append([
                    *(cell(row) for cell in lead.values()), title, side.get("precision", ""),
                    seconds(side["seconds"]["median"]), *(ratio(speedups.get(base)) for base in bases),
                    *(cell(side) for cell in further.values()), side["seconds"]["count"],
                ])  # fmt: skip
        missing += [
            f"* {row['model']}, {TITLES[name]}: not measured, {reason}" for name, reason in row["missing"].items()
        ]
    table = markdown(*without_empty(head, cells))
    return [*table, "", *missing] if missing else table


def without_empty(head: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[list[str], list[list[object]]]:
    """Return head and rows without the columns that are empty in every row."""
    kept = [number for number in range(len(head)) if any(row[number] != "" for row in rows)]
    return [head[number] for number in kept], [[row[number] for number in kept] for row in rows]


def engines_table(parts: Parts) -> Lines:
    """Return the table of engines."""
    return markdown(["engine", *PAIR], [[row["what"], *pair(row)] for row in rows_of(parts, "engines")])


def window_step_table(parts: Parts) -> Lines:
    """Return the table of window-steps, one row per model and side."""
    lead = {
        "model": lambda row: row["model"],
        "channels": lambda row: ", ".join(map(str, row["channels"])),
        "size": lambda row: row["what"],
    }
    further = {"signal to noise": lambda side: decibels(side["signal_to_noise"]) if "signal_to_noise" in side else ""}
    return sides_table(rows_of(parts, "window-step"), lead, further)


def changes_table(parts: Parts) -> Lines:
    """Return the table of optimisations, and the shares of operators in the denoiser's time."""
    lines: Lines = []
    for _, found in figures(parts, "changes"):
        rows = [
            [row["what"], row["words"], *pair({**row, "ours": row["theirs"], "theirs": row["ours"]}), _memories(row),
             why_kept(row)]
            for row in found["rows"]
        ]  # fmt: skip
        head = ["optimisation", "compared", "without", "with", *PAIR[2:], "memory without, with", "why it is kept"]
        lines += [*markdown(*without_empty(head, rows)), ""]
        if found["profile"]:
            shares = ", ".join(f"{kind} {share:.1%}" for kind, share in found["profile"].items())
            lines += [f"Shares of the denoiser's time (model {found['model']}): {shares}.", ""]
    return lines[:-1]


def why_kept(row: Row) -> str:
    """Return the reason for which an optimisation is kept, from its measured figures.

    `faster` needs the lower quartile of the speed-ups above 1, `less memory` less memory than without it. A reason of
    the row names what another measurement shows.
    """
    if not row["kept"]:
        return "not kept"
    reasons = []
    if row["ratio"]["low_quartile"] > 1:
        reasons.append("faster")
    if "memory" in row and row["memory"]["with"] < row["memory"]["without"]:
        reasons.append("less memory")
    if "reason" in row:
        reasons.append(row["reason"])
    return ", ".join(reasons) or ("no gain" if "memory" in row else "no gain in speed; memory not measured here")


def _memories(row: Row) -> str:
    if "memory" not in row:
        return ""
    return ", ".join(f"{row['memory'][way] / 2**20:.0f} MiB" for way in ("without", "with"))


def loading_table(parts: Parts) -> Lines:
    """Return the table of engines with packed and with shared weights."""
    rows = [
        [row["what"], row["weights"], seconds(row["loading"]), seconds(row["call"]), f"{row['mebibytes']:.0f} MiB"]
        for row in rows_of(parts, "loading")
    ]
    return markdown(["engine", "weights", "load time", "time per call", "memory, including the engines above"], rows)


def native_table(parts: Parts) -> Lines:
    """Return the table of native kernels."""
    head = ["kernel", "C++", "NumPy", *PAIR[2:]]
    return markdown(head, [[row["what"], *pair(row)] for row in rows_of(parts, "native")])


def first_frame_table(parts: Parts) -> Lines:
    """Return the table of the first frame."""
    rows = [
        [row["what"], *pair(row)[:3], *row["window_steps"].values(), *map(seconds, row["processor"].values())]
        for row in rows_of(parts, "first-frame")
    ]
    head = ["clip", "`wavefront`", "`step_major`", "speed-up"]
    steps, cpu = ("window-steps, `wavefront`", "`step_major`"), ("CPU time, `wavefront`", "`step_major`")
    return markdown([*head, *steps, *cpu], rows)


def lengths_table(parts: Parts) -> Lines:
    """Return the table of videos of several lengths."""
    return videos_table(rows_of(parts, "videos"))


def videos_table(rows: Sequence[Row]) -> Lines:
    """Return a table of videos, one row per video and side."""
    lead = {"model": lambda row: row["model"], "video": lambda row: row["what"]}

    def agreement(name: str, text: Callable[[Any], object]) -> Callable[[Row], object]:
        return lambda side: text(side["agreement"][name]) if "agreement" in side else ""

    further = {
        "sampler, steps": lambda side: f"{side['sampler']}, {side['steps']}",
        "PSNR": agreement("psnr", decibels),
        "equal bytes": agreement("equal", "{:.2%}".format),
        "largest difference": agreement("largest", lambda value: value),
    }
    return sides_table(rows, lead, further)


def stages_table(parts: Parts) -> Lines:
    """Return the table of stages, one row per video and side."""
    rows = rows_of(parts, "videos")
    found = [
        (row, TITLES[name], row["sides"][name]["stages"]) for row in rows for name in TITLES if name in row["sides"]
    ]
    stages = list(dict.fromkeys(stage for _, _, times in found for stage in times))
    cells = [[row["model"], row["what"], title, *(_stage(times, s) for s in stages)] for row, title, times in found]
    return markdown(["model", "video", "side", *stages], cells)


def _stage(found: Mapping[str, float], name: str) -> str:
    return seconds(found[name]) if name in found else ""


def cold_start_table(parts: Parts) -> Lines:
    """Return the table of cold starts, one row per model, provider and process."""
    cells, stages = [], list[str]()
    for name, found in figures(parts, "cold-start"):
        totals: dict[str, float] = {}
        for row in found["rows"]:
            stages = stages or list(row["seconds"])
            totals.setdefault(row["way"], row["seconds"]["total"])  # of the first process, which comes first
            share = "" if row["process"] == "first" else f"{row['seconds']['total'] / totals[row['way']]:.2f}"
            times = [seconds(row["seconds"][stage]) for stage in stages]
            cells.append([name.partition("/")[2], row["way"], row["process"], *times, share])
    return markdown(["model", "provider", "process", *stages, "/ first process"], cells)


def crowd_table(parts: Parts) -> Lines:
    """Return the table of a crowded machine, as its command prints it."""
    return [line for _, found in figures(parts, "crowd") for line in crowd.table(found["rows"])]


def memory_table(parts: Parts) -> Lines:
    """Return the table of peak memory by length."""
    rows = rows_of(parts, "memory")
    first = rows[0]["peak"] if rows else 1
    cells = [
        [f"{row['minutes']:g}", row["frames"], f"{row['peak'] / 2**20:.0f} MiB", f"{row['peak'] / first:.3f}"]
        for row in rows
    ]
    return markdown(["minutes of speech", "frames", "peak memory", "/ first row"], cells)


def precision_table(parts: Parts) -> Lines:
    """Return the table of providers and precisions of the shipped model."""
    further = {
        "PSNR": lambda side: decibels(side["psnr"]),
        "worst frame": lambda side: decibels(side["psnr_of_the_worst_frame"]),
        "lips": lambda side: f"{side['lips']:.3f}",
        "largest change of lips": lambda side: f"{side['lips_change']:.3f}",
        "nose": lambda side: f"{side['nose']:.2%}",
    }
    return sides_table(rows_of(parts, "precision"), {"video": lambda row: row["what"]}, further)


def quality_table(parts: Parts) -> Lines:
    """Return the table of presets, with the number of people and the reference."""
    lines: Lines = []
    for _, found in figures(parts, "quality"):
        clips = f"{len(found['people'])} people, {found['seconds_of_video']:g} s each"
        lines += [f"{clips}; reference: DDIM, {found['reference_steps']} steps.", "", *presets_table(found)]
    return lines


def presets_table(found: Mapping[str, Any]) -> Lines:
    """Return the table of presets from the figures of `benchmarks.quality`."""
    head = [
        "",
        "sampler, steps",
        "guided",
        "speed-up",
        "denoising alone",
        "PSNR",
        "worst frame",
        "lips",
        "nose",
        "95 %",
    ]
    return markdown(head, [_preset(row) for row in found["rows"]])


def _preset(row: Row) -> list[str]:
    low, high = row["guidance_interval"]
    guided = f"{low:g} to {high:g}"
    if row["uncond_interval"] > 1:
        guided += f", every {row['uncond_interval']}"
    return [
        row["name"],
        f"{row['sampler']}, {row['steps']}",
        guided,
        f"{row['speedup']['median']:.2f} x",
        f"{row['denoising_speedup']['median']:.2f} x",
        decibels(row["psnr"]),
        decibels(row["psnr_of_the_worst_frame"]),
        f"{row['lips']:.3f}",
        f"{row['nose']:.2%}",
        f"{row['nose_95']:.2%}",
    ]


def decibels(value: float | str) -> str:
    """Format dB; infinity, which JSON holds as text, means equal frames."""
    return f"{value:.1f} dB" if not isinstance(value, str) and math.isfinite(value) else "equal"


def live_table(parts: Parts) -> Lines:
    """Return the settings and the figures of live mode, one per row."""
    lines: Lines = []
    for _, found in figures(parts, "live"):
        kept = {name: value for name, value in found.items() if name not in LEFT_OUT}
        rows = [["settings", live_settings(found)], *([name, _text(value)] for name, value in _flat(kept))]
        lines += markdown(["figure", "value"], rows)
    return lines


LEFT_OUT = ("machine", "generator", "asked", "settings")  # figures of live mode that the page shows elsewhere


def live_settings(found: Mapping[str, Any]) -> str:
    """Return what live mode was measured with, such as "4 steps without guidance, overlap 8".

    Args:
        found: The figures of live mode. Older ones lack `settings`; their options are those on the command line.
    """
    settings = found.get("settings", found["asked"])
    steps, guidance, overlap = (settings.get(name) for name in ("steps", "guidance_scale", "overlap"))
    if steps is None or guidance is None:
        return "as the bundle recommends"
    text = f"{steps} steps {'without guidance' if guidance <= 1 else f'with guidance {guidance:g}'}"
    return text if overlap is None else f"{text}, overlap {overlap}"


def _flat(found: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested figures with the names of all levels."""
    for name, value in found.items():
        label = f"{head}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label}, ")
        else:
            yield label, value


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
