"""The parts of the report in order; each runs alone, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.cpu.effort import Effort
from benchmarks.cpu.models import MODELS
from benchmarks.gpu.parts import Part

# Kinds of parts, for --parts: the names of parts up to the slash.
KINDS = (
    "engines", "window-step", "changes", "loading", "native", "first-frame", "videos", "memory", "precision", "quality",
    "live", "cold-start", "crowd",
)  # fmt: skip


# One round of all situations takes two minutes; a round that would end later than the seconds allow does not begin.
CROWD = ("--ways", "spinning", "no spinning", "one thread", "openvino", "--seconds", "300")


def plan(effort: Effort, *, threads: int, work: Path, quick: bool) -> list[Part]:
    """Return every part of the report, in order.

    Args:
        effort: Sizes and rounds.
        threads: CPU threads of each side.
        work: Folder of weights and bundles.
        quick: Whether suites run with few rounds.
    """

    def suite(name: str, file: str, *flags: str, needs: Iterable[str] = ()) -> Part:
        arguments = [f"benchmarks/suites/test_{file}.py", "--threads", str(threads), "--work", str(work), *flags]
        return _part(name, "suite", {"arguments": arguments + (["--quick"] if quick else [])}, needs)

    def of(model: str) -> dict[str, Any]:
        return {"needs": (f"prepare/{model}",)}

    def command(name: str, module: str, *flags: str, needs: Iterable[str] = ()) -> Part:
        options = {"module": f"benchmarks.{module}", "flags": [*flags, "--threads", str(threads)]}
        return _part(name, "command", options, needs)

    changed = effort.changes_of
    half = ["half"] if "half" in effort.models else []
    return [
        *(_part(f"prepare/{model}", "prepare", {"model": model, "work": str(work)}) for model in effort.models),
        suite("native", "native"),
        suite("engines", "engines", "--models", "pocket", **of("pocket")),
        *(suite(f"window-step/{m}", "window_step", "--models", m, **of(m)) for m in effort.models),
        *(
            command(f"changes/{k}", "cpu.changes", "--preset", changed, "--loads", str(effort.loads), "--kind", k)
            for k in ("speed", "memory")
        ),
        command("loading", "cpu.loading", "--bundle", str(MODELS[changed].bundle(work)), **of(changed)),
        *(suite(f"videos/{m}", "videos", "--models", m, **of(m)) for m in half),
        *(_lengths(suite, length, of("pocket")) for length in effort.lengths),
        suite("first-frame", "first_frame"),
        _part("memory", "memory", {"minutes": list(effort.minutes)}),
        _part("precision", "precision", {
            "threads": threads, "people": effort.people, "seconds": effort.seconds, "rounds": effort.video_rounds,
        }),
        _part("quality", "quality", {
            "threads": threads, "people": effort.people, "seconds": effort.seconds,
            "reference_steps": effort.reference_steps,
        }),
        command("live", "live", "--minutes", f"{effort.live_minutes:g}", "--people", str(effort.live_people)),
        command("cold-start/shipped", "cold_start", "--evict", "--repeats", str(effort.cold_starts)),
        *(
            command(
                f"cold-start/{m}", "cold_start", "--evict", "--repeats", str(effort.cold_starts),
                "--engines", str(MODELS[m].bundle(work)), needs=(f"prepare/{m}",),
            )
            for m in half
        ),
        command("crowd", "cpu.crowd", *(["--quick"] if quick else CROWD)),
    ]  # fmt: skip


def _lengths(suite: Any, length: float, needs: dict[str, Any]) -> Part:
    """Return the part of one length; an interruption loses only the part that runs."""
    part: Part = suite(f"videos/{length:g}s", "videos", "--models", "pocket", "--lengths", f"{length:g}", **needs)
    return part


def _part(name: str, function: str, options: dict[str, Any], needs: Iterable[str] = ()) -> Part:
    return Part(name, f"benchmarks.page.parts:{function}", options, alone=True, needs=tuple(needs))
