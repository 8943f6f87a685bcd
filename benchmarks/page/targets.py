"""The targets of the measurements, and whether a machine reaches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.cpu.runtimes import AMX, AUTOCAST, CPU, FAST, OPENVINO_BF16, PYTORCH
from benchmarks.gpu.parts import Outcome
from benchmarks.page.tables import Lines, Parts, markdown

REACHED, MISSED, NOT_MEASURED, OTHER_CPU = "reached", "MISSED", "not measured", "no target on this CPU"


@dataclass(frozen=True)
class Target:
    """A figure and its bound.

    Attributes:
        name: Name in the JSON.
        words: What the figure is.
        figure: Returns the figure from the parts; None if it was not measured.
        least: The least value that reaches the target; None if there is none.
        most: The largest value that reaches it; None if there is none.
        unit: Unit of the figure, after a space.
        needs: Instruction set for which the target holds; empty for every CPU.
    """

    name: str
    words: str
    figure: Callable[[Parts], float | None]
    least: float | None = None
    most: float | None = None
    unit: str = ""
    needs: str = ""

    def verdict(self, value: float | None, machine: Mapping[str, Any]) -> str:
        """Judge a figure of a machine."""
        if value is None:
            return NOT_MEASURED
        if self.needs and self.needs not in machine["instructions"]:
            return OTHER_CPU
        reached = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        return REACHED if reached else MISSED

    @property
    def bound(self) -> str:
        """The bound as text."""
        words = f"at least {self.least:.3g}" if self.least is not None else f"at most {self.most:.3g}"
        return f"{words}{self.unit}" + (f" with {self.needs}" if self.needs else "")


def _speedup(part: str, side: str, base: str) -> Callable[[Parts], float | None]:
    return lambda parts: _of_rows(parts, part, lambda row: row["speedups"][side][base]["median"])


def _side(part: str, side: str, figure: Callable[[Mapping[str, Any]], Any]) -> Callable[[Parts], float | None]:
    return lambda parts: _of_rows(parts, part, lambda row: figure(row["sides"][side]))


def _of_rows(parts: Parts, part: str, figure: Callable[[Mapping[str, Any]], Any]) -> float | None:
    """Return a figure of the first row of a part that has it."""
    for row in parts.get(part, {}).get("figures", {}).get("rows", []):
        try:
            return float(figure(row))
        except KeyError:
            continue
    return None


def _first_frame(parts: Parts) -> float | None:
    return _of_rows(parts, "first-frame", lambda row: row["ratio"]["median"])


def _cold_start(parts: Parts, way: str) -> float | None:
    rows = parts.get("cold-start/half", {}).get("figures", {}).get("rows", [])
    totals = {row["process"]: row["seconds"]["total"] for row in rows if row["way"] == way}
    return totals["first"] / totals["second"] if totals else None


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


HALF = "videos/half"
TARGETS = (
    Target("cpu_ratio", "video of the half-width model, 128 x 128: `cpu` over PyTorch in fp32",
           _speedup(HALF, CPU, PYTORCH), least=1.75),
    Target("fast", "the same video, PyTorch in fp32 with 25 steps of DDIM: `cpu` with 6 steps of the preset `fast` "
           "over it", _speedup(HALF, FAST, PYTORCH), least=4.0),
    Target("bf16_eager", "the same video: `openvino` in bf16 over PyTorch in fp32",
           _speedup(HALF, OPENVINO_BF16, PYTORCH), least=2.7, needs=AMX),
    Target("bf16_autocast", "the same video: `openvino` in bf16 over PyTorch under bf16 autocast",
           _speedup(HALF, OPENVINO_BF16, AUTOCAST), least=2.0, needs=AMX),
    Target("bf16_psnr", "PSNR of that video to PyTorch in fp32",
           _side(HALF, OPENVINO_BF16, lambda side: side["agreement"]["psnr"]), least=41.0, unit=" dB", needs=AMX),
    Target("shipped_bf16", "video of the shipped model: `openvino` in bf16 over `cpu`",
           _speedup("precision", OPENVINO_BF16, CPU), least=2.5, needs=AMX),
    Target("shipped_psnr", "PSNR of that video to `cpu`",
           _side("precision", OPENVINO_BF16, lambda side: side["psnr"]), least=52.0, unit=" dB", needs=AMX),
    Target("shipped_lips", "largest change of the lips' correlation with the speech in that video",
           _side("precision", OPENVINO_BF16, lambda side: side["lips_change"]), most=0.01, needs=AMX),
    Target("first_frame", "first frame of a minute's clip: `wavefront` over `step_major`", _first_frame, least=15.0),
    Target("cold_start", "cold start of the half-width model with `openvino` in bf16: first process / second process",
           lambda parts: _cold_start(parts, "openvino-bf16"), least=3.0),
    Target("memory", "peak memory: shortest speech / longest speech", _memory, least=1 / 1.05),
    Target("live_memory", "live: memory after a fifth of the session / at its end", _live_memory, least=1 / 1.05),
    Target("live_sound", "live: share of frames with the right samples and time", _live_sound, least=1.0),
)  # fmt: skip


def targets(outcomes: Mapping[str, Outcome], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the targets and the measured figures for the JSON."""
    parts = {name: outcome.to_json() for name, outcome in outcomes.items()}
    found = {}
    for target in TARGETS:
        value = target.figure(parts)
        bounds = {"at_least": target.least, "at_most": target.most}
        found[target.name] = {name: bound for name, bound in bounds.items() if bound is not None}
        found[target.name] |= {"measured": value, "verdict": target.verdict(value, machine)}
    return {"targets": found}


def targets_table(data: Mapping[str, Any], *, measured: bool = False) -> Lines:
    """Return the table of targets.

    Args:
        data: Content of a machine's JSON.
        measured: Whether to leave out the targets that were not measured.
    """
    rows = []
    for target in TARGETS:
        value = target.figure(data["parts"])
        if value is not None or not measured:
            text = "" if value is None else f"{value:.3g}{target.unit}"
            rows.append([target.words, target.bound, text, target.verdict(value, data["machine"])])
    return markdown(["figure", "target", "measured", ""], rows)
