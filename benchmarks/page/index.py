"""Write the index of all measured machines: a section for each, with its key figures and targets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cpu.runtimes import AUTOCAST, CPU, OPENVINO, OPENVINO_BF16, PYTORCH, TITLES
from benchmarks.page.render import PAGE, size, versions
from benchmarks.page.tables import (
    Lines,
    decibels,
    live_settings,
    markdown,
    precision_table,
    ratio,
    rows_of,
    seconds,
    videos_table,
)
from benchmarks.page.targets import targets_table

JSON = "benchmarks.json"
ROOT = Path(__file__).parents[2]
MACHINES = ROOT / "docs" / "benchmarks"  # the folder of the index, with a folder for each machine
README = ROOT / "README.md"
SPEED = "<!-- speed -->"  # before and after the table in the README
SPEED_ROWS = {
    "videos/half": "half of the full width, 8 frames of 128 x 128",
    "videos/2s": "small model, 2 s of 128 x 128",
}
SAMPLERS = {"ddim": "DDIM", "unipc": "UniPC"}

ABOUT = """\
`vexpress_rt` and PyTorch on the CPUs that were at hand. Each machine has a page of its own. "PyTorch" is the same
networks in eager mode, in the order of the public code, with the same weights and noise; where the CPU has bfloat16
arithmetic, it is measured under `torch.autocast("cpu", torch.bfloat16)` too. Times are medians of alternating calls in
one process, and PSNR compares with PyTorch in fp32. A column *x PyTorch, fp32* has the speed-up over that side.
"""
# Measured by hand before the provider existed, so there is no JSON; no machine with AMX has been available since then.
WITHOUT_JSON = """\
## Not in this report: Intel with AMX

No machine with AMX has been measured by `python -m benchmarks.report` yet. The targets of bfloat16 come from
measurements by hand on 2 cores of an Intel Xeon with AMX, with OpenVINO 2026.4.1, before the provider `openvino`
existed. The video is the half-width model's, 8 frames of 128 x 128, inputs to frames; a range is that of several noisy
runs:

| side | time | PSNR to PyTorch, fp32 |
| --- | --- | --- |
| PyTorch, fp32 | 10.7 to 12.4 s | |
| PyTorch, bf16 autocast | 8.4 to 9.7 s | 41.0 dB |
| ONNX Runtime, fp32 | 9.2 to 9.6 s | 87 dB |
| OpenVINO, fp32 | 8.7 to 9.0 s | 84 dB |
| OpenVINO, bf16, with the two corrections that the provider has | 3.1 to 3.2 s | 41.2 dB |
"""


def write_index(folder: Path, readme: Path) -> None:
    """Write PAGE into the folder of all machines and the table of speed into the project's README, from their JSONs."""
    machines = read_machines(folder)
    (folder / PAGE).write_text(index(machines), encoding="utf-8")
    readme.write_text(with_speed(readme.read_text(encoding="utf-8"), machines), encoding="utf-8")


def read_machines(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the content of each machine's JSON by the name of its folder, the machine measured last first."""
    machines = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"*/{JSON}")}
    return dict(sorted(machines.items(), key=lambda item: str(item[1]["runs"][-1]["started"]), reverse=True))


def with_speed(readme: str, machines: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of the README with the table of speed between its marks.

    Args:
        readme: The text.
        machines: As `read_machines` returns them.

    Raises:
        ValueError: The text does not have both marks.
    """
    before, *middle = readme.split(SPEED)
    if len(middle) != 2:
        raise ValueError(f"{len(middle)} marks {SPEED}; expected two, around the table of speed")
    return SPEED.join((before, "\n".join(["", "", *speed_table(machines), "", ""]), middle[1]))


def speed_table(machines: Mapping[str, Mapping[str, Any]]) -> Lines:
    """Return the table of speed: the half-width model's video and two seconds of the small model's, on each machine."""
    rows = []
    for name, data in machines.items():
        cpu = f"[{data['machine']['cpu']}]({MACHINES.relative_to(ROOT)}/{name}/{PAGE})"
        for part, words in SPEED_ROWS.items():
            for row in rows_of({"videos": data["parts"].get(part, {})}, "videos"):
                times = {side: found["seconds"]["median"] for side, found in row["sides"].items()}
                rows += [
                    [cpu, _video(row, side, words), TITLES[side], seconds(times[side]),
                     *(_speedup(row, side, base) for base in (PYTORCH, AUTOCAST)),
                     decibels(row["sides"][side]["agreement"]["psnr"])]
                    for side in TITLES if side in times and side not in (PYTORCH, AUTOCAST)
                ]  # fmt: skip
    head = ["CPU", "video", "provider", "time", "PyTorch, fp32", "PyTorch, bf16 autocast", "PSNR to PyTorch, fp32"]
    return markdown(head, rows)


def _video(row: Mapping[str, Any], side: str, words: str) -> str:
    """Return what a row makes; a side with other steps than PyTorch names both."""
    own, other = row["sides"][side], row["sides"][PYTORCH]
    text = f"{words}, {own['steps']} steps of {SAMPLERS[own['sampler']]}"
    if (own["steps"], own["sampler"]) == (other["steps"], other["sampler"]):
        return text
    return f"{text}, PyTorch with {other['steps']} of {SAMPLERS[other['sampler']]}"


def _speedup(row: Mapping[str, Any], side: str, base: str) -> str:
    if base not in row["speedups"][side]:
        return "not measured"
    return f"{seconds(row['sides'][base]['seconds']['median'])}, {row['speedups'][side][base]['median']:.1f}x"


def index(machines: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the index as Markdown.

    Args:
        machines: As `read_machines` returns them.
    """
    lines = ["# Benchmarks on CPUs", "", ABOUT, *_overview(machines), ""]
    for name, data in machines.items():
        lines += [*_section(name, data), ""]
    return "\n".join([*lines, WITHOUT_JSON]).rstrip() + "\n"


def _overview(machines: Mapping[str, Mapping[str, Any]]) -> Lines:
    """Return a table of the half-width model's video, a row for each machine."""
    columns = ((CPU, PYTORCH), (OPENVINO, PYTORCH), (OPENVINO_BF16, PYTORCH), (OPENVINO_BF16, AUTOCAST))
    rows = []
    for name, data in machines.items():
        found: Any = next(iter(rows_of({"videos/half": data["parts"].get("videos/half", {})}, "videos")), None)
        speedups = found["speedups"] if found else {}
        cells = [ratio(speedups.get(side, {}).get(base)) or "not measured" for side, base in columns]
        rows.append([f"[{data['machine']['cpu']}]({name}/{PAGE})", data["machine"]["cores"], _date(data), *cells])
    head = ["video of the half-width model on", "cores", "measured"]
    return markdown([*head, *(f"{TITLES[side]} x {TITLES[base]}" for side, base in columns)], rows)


def _section(name: str, data: Mapping[str, Any]) -> Lines:
    machine, parts = data["machine"], data["parts"]
    lines = [
        f"## {machine['cpu']}",
        "",
        f"{size(machine)}; measured {_date(data)} with {versions(machine)}. [All figures]({name}/{PAGE}).",
        "",
    ]
    if "note" in machine:
        lines += [machine["note"], ""]
    videos, targets = videos_table(rows_of(parts, "videos")), targets_table(data, measured=True)
    for table in (videos, precision_table(parts), _further(parts), targets):
        lines += [*table, ""] if table else []
    return lines[:-1]


def _further(parts: Mapping[str, Any]) -> Lines:
    """Return the table of single figures."""
    rows = [
        [f"first frame, {row['what']}", f"{seconds(row['ours']['median'])}; in upstream's order "
         f"{seconds(row['theirs']['median'])}"]
        for row in rows_of(parts, "first-frame")
    ]  # fmt: skip
    memory = rows_of(parts, "memory")
    if memory:
        minutes = ", ".join(f"{row['minutes']:g}" for row in memory)
        peaks = ", ".join(f"{row['peak'] / 2**20:.0f}" for row in memory)
        rows.append([f"peak memory for {minutes} minutes of speech", f"{peaks} MiB"])
    live = parts.get("live", {}).get("figures", {})
    if "sustained_fps" in live:
        rows.append([f"live, {live_settings(live)}", _live(live)])
    return markdown(["small model", "measured"], rows)


def _live(figures: Mapping[str, Any]) -> str:
    """Return the sustained rate and the latency of live mode."""
    clock = figures["clock"]
    return (
        f"{figures['sustained_fps']:.0f} frames per second sustained; {clock['latency_s']['p50']:.2f} s from sound to "
        f"frame (median, at {clock['fps']:g} per second)"
    )


def _date(data: Mapping[str, Any]) -> str:
    return str(data["runs"][-1]["started"])[:10]
