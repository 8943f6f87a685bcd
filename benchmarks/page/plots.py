"""The plots of the page, PNG files in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes  # after the choice of the backend
from matplotlib.figure import Figure

from benchmarks.cpu.runtimes import AUTOCAST, CPU, FAST, OPENVINO, OPENVINO_BF16, PYTORCH, TITLES
from benchmarks.page.tables import Parts, figures, rows_of

OURS = "#2563a8"
SIDES = {
    PYTORCH: "#c8642b", AUTOCAST: "#e8b48a", CPU: OURS, FAST: "#7fb0dc", OPENVINO: "#3f9b6c", OPENVINO_BF16: "#a8d5a2",
}  # fmt: skip
ORDER = ("load", "portrait", "keypoints", "depth", "audio", "denoise", "decode", "median", "encode")  # order of stages
LEAST = 0.002  # least share of a video's time that is visible in the plot
STAGES = ("#2563a8", "#7fb0dc", "#3f9b6c", "#a8d5a2", "#c8642b", "#e8b48a", "#7a5aa6", "#bfa8d8", "#8a8a8a")
SIZE = (7.0, 3.6)  # inches
BAR = 0.22  # inches of a bar's row
DPI = 130


def draw(parts: Parts, folder: Path) -> tuple[str, ...]:
    """Draw every plot that has figures.

    Args:
        parts: Parts of the JSON by name.
        folder: Folder to write to; plots without figures are removed from it.

    Returns:
        Names of the files.
    """
    makers: dict[str, Callable[[Parts, Axes], bool]] = {
        "length.png": _length, "stages.png": _stages, "memory.png": _memory, "quality.png": _quality,
    }  # fmt: skip
    drawn = []
    for name, maker in makers.items():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        if maker(parts, axes):
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
            axes.spines[["top", "right"]].set_visible(False)
            figure.savefig(folder / name, dpi=DPI, metadata={"Software": None})
            drawn.append(name)
        else:
            (folder / name).unlink(missing_ok=True)
    return tuple(drawn)


def _length(parts: Parts, axes: Axes) -> bool:
    rows = sorted((r for r in rows_of(parts, "videos") if "length" in r), key=lambda row: float(row["length"]))
    everything = []
    for name, colour in SIDES.items():
        points = [(row["length"], row["sides"][name]["seconds"]["median"]) for row in rows if name in row["sides"]]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", label=_label(name), color=colour)
        everything += points
    axes.set(xlabel="seconds of video", ylabel="seconds to make it", title="Small model: cost over length")
    _from_zero(axes, [across for across, _ in everything], [up for _, up in everything])
    return len({across for across, _ in everything}) > 1  # one length makes no curve


def _label(name: str) -> str:
    return TITLES[name].replace("`", "")


def _memory(parts: Parts, axes: Axes) -> bool:
    rows = rows_of(parts, "memory")
    minutes, peaks = [row["minutes"] for row in rows], [row["peak"] / 2**20 for row in rows]
    axes.plot(minutes, peaks, "o-", color=OURS)
    axes.set(xlabel="minutes of speech", ylabel="peak memory, MiB", title="Small model: memory over length")
    _from_zero(axes, minutes, peaks)
    return bool(rows)


def _from_zero(axes: Axes, across: Sequence[float], up: Sequence[float]) -> None:
    axes.set_xlim(0, 1.1 * max(across, default=1))
    axes.set_ylim(0, 1.1 * max(up, default=1))


def _stages(parts: Parts, axes: Axes) -> bool:
    """Draw a bar for each side of each video, as shares of PyTorch's time, so that videos of any length fit."""
    bars: list[tuple[str, Mapping[str, float], float]] = []
    for row in rows_of(parts, "videos"):
        whole = row["sides"][PYTORCH]["stages"]["total"]
        video = f"{row['model']}, {row['what']}" if "length" in row else row["model"]
        bars += [
            (f"{video}: {_label(name)}", row["sides"][name]["stages"], whole) for name in TITLES if name in row["sides"]
        ]
    height = max(SIZE[1], BAR * len(bars))
    axes.figure.set_figheight(height)
    shares = {(stage, found[stage] / whole) for _, found, whole in bars for stage in found}
    seen = [stage for stage in ORDER if any(name == stage and share >= LEAST for name, share in shares)]
    left = [0.0] * len(bars)
    for number, stage in enumerate(seen):
        widths = [found.get(stage, 0.0) / whole for _, found, whole in bars]
        places = range(len(bars))
        axes.barh(places, widths, left=left, label=stage, color=STAGES[number % len(STAGES)])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="share of the time of PyTorch in fp32", title="Latency by stage")
    return bool(bars)


def _quality(parts: Parts, axes: Axes) -> bool:
    rows: list[Mapping[str, Any]] = [
        row for _, found in figures(parts, "quality") for row in found["rows"] if row["psnr"] != "inf"
    ]
    for row in rows:
        place = (row["speedup"]["median"], row["psnr"])
        axes.plot(*place, "o", color=OURS)
        words = f"{row['name']} ({row['sampler']}, {row['steps']})"
        axes.annotate(words, place, xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel="speed-up over `exact`", ylabel="PSNR to the reference, dB", title="Quality over speed")
    axes.margins(x=0.35, y=0.2)
    axes.set_xlim(left=0)
    return bool(rows)
