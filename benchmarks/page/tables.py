"""Tables of the page, made from the figures of parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Parts = Mapping[str, Mapping[str, Any]]
Lines = list[str]
Row = Mapping[str, Any]

PAIR = ("ours", "PyTorch", "speed-up", "quartiles", "pairs")


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


def engines_table(parts: Parts) -> Lines:
    """Return the table of engines."""
    return markdown(["engine", *PAIR], [[row["what"], *pair(row)] for row in rows_of(parts, "engines")])


def window_step_table(parts: Parts) -> Lines:
    """Return the table of window-steps, one row per model."""
    rows = [
        [row["model"], ", ".join(map(str, row["channels"])), row["what"], *pair(row)]
        for row in rows_of(parts, "window-step")
    ]
    return markdown(["model", "channels", "size", *PAIR], rows)


def changes_table(parts: Parts) -> Lines:
    """Return the table of optimisations, and the shares of operators in the denoiser's time."""
    lines: Lines = []
    for _, found in figures(parts, "changes"):
        rows = [
            [row["what"], row["words"], *pair({**row, "ours": row["theirs"], "theirs": row["ours"]}),
             "yes" if row["kept"] else "no"]
            for row in found["rows"]
        ]  # fmt: skip
        head = ["optimisation", "compared", "without", "with", *PAIR[2:], "kept"]
        shares = ", ".join(f"{kind} {share:.1%}" for kind, share in found["profile"].items())
        lines += [*markdown(head, rows), "", f"Shares of the denoiser's time (model {found['model']}): {shares}."]
    return lines


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
    rows = [
        [row["model"], row["what"], row["steps"], *pair(row), f"{row['agreement']['equal']:.2%}",
         row["agreement"]["largest"]]
        for row in rows_of(parts, "videos")
    ]  # fmt: skip
    return markdown(["model", "video", "steps", *PAIR, "equal bytes", "largest difference"], rows)


def stages_table(parts: Parts) -> Lines:
    """Return the table of stages, one row per video and side."""
    rows = rows_of(parts, "videos")
    stages = list(dict.fromkeys(name for row in rows for side in row["stages"].values() for name in side))
    cells = [
        [row["model"], row["what"], {"ours": "ours", "theirs": "PyTorch"}[side], *(_stage(found, s) for s in stages)]
        for row in rows
        for side, found in row["stages"].items()
    ]
    return markdown(["model", "video", "", *stages], cells)


def _stage(found: Mapping[str, float], name: str) -> str:
    return seconds(found[name]) if name in found else ""


def memory_table(parts: Parts) -> Lines:
    """Return the table of peak memory by length."""
    rows = rows_of(parts, "memory")
    first = rows[0]["peak"] if rows else 1
    cells = [
        [f"{row['minutes']:g}", row["frames"], f"{row['peak'] / 2**20:.0f} MiB", f"{row['peak'] / first:.3f}"]
        for row in rows
    ]
    return markdown(["minutes of speech", "frames", "peak memory", "/ first row"], cells)


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
        _decibels(row["psnr"]),
        _decibels(row["psnr_of_the_worst_frame"]),
        f"{row['lips']:.3f}",
        f"{row['nose']:.2%}",
        f"{row['nose_95']:.2%}",
    ]


def _decibels(value: float | str) -> str:
    """Format dB; infinity, which JSON holds as text, means equal frames."""
    return f"{value:.1f} dB" if not isinstance(value, str) and math.isfinite(value) else "equal"


def live_table(parts: Parts) -> Lines:
    """Return the figures of live mode, one per row."""
    lines: Lines = []
    for _, found in figures(parts, "live"):
        kept = {name: value for name, value in found.items() if name not in LEFT_OUT}
        rows = [[name, _text(value)] for name, value in _flat(kept)]
        lines += markdown(["figure", "value"], rows)
    return lines


LEFT_OUT = ("machine", "generator", "asked")  # figures of live mode that the page shows elsewhere


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
