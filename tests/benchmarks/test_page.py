"""The page of the benchmarks, made from a JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.measure import summary
from benchmarks.gpu.parts import FAILED, OK, Outcome
from benchmarks.page.render import PAGE, goals, page, write_page
from benchmarks.page.tables import markdown, seconds


def pair(ours: float, theirs: float, **facts: Any) -> dict[str, Any]:
    """Return a row of a suite."""
    return {"ours": summary([ours]), "theirs": summary([theirs]), "ratio": summary([theirs / ours]), **facts}


def video(model: str, what: str, ours: float, theirs: float, **facts: Any) -> dict[str, Any]:
    stages = {"ours": {"denoise": ours * 0.9, "total": ours}, "theirs": {"denoise": theirs * 0.8, "total": theirs}}
    agreement = {"equal": 0.9995, "largest": 1, "psnr": 80.0}
    return pair(ours, theirs, model=model, what=what, steps=8, stages=stages, agreement=agreement, **facts)


def preset(name: str, speedup: float, psnr: float | str) -> dict[str, Any]:
    return {
        "name": name, "sampler": "ddim", "steps": 8, "guidance_interval": [0, 0.7], "uncond_interval": 2,
        "speedup": summary([speedup]), "denoising_speedup": summary([speedup]), "psnr": psnr,
        "psnr_of_the_worst_frame": psnr, "lips": 0.91, "nose": 0.01, "nose_95": 0.02,
    }  # fmt: skip


LIVE_CLOCK = {
    "latency_s": {"p50": 0.5}, "memory_mib": {"after_a_fifth": 300.0, "in_the_end": 303.0},
    "frames": 200, "frames_with_wrong_sound_or_time": 1,
}  # fmt: skip
FIGURES: dict[str, dict[str, Any]] = {
    "engines": {"rows": [pair(0.010, 0.018, what="denoiser", model="pocket")]},
    "window-step/half": {"rows": [pair(1.0, 2.0, what="128 x 128, 8 frames", model="half", channels=[160, 320])]},
    "changes": {"model": "half", "profile": {"products": 0.6, "attention": 0.4},
                "rows": [pair(0.5, 0.6, what="GEGLU", words="two products", kept=True, error=0.0)]},
    "loading": {"rows": [{"what": "denoiser", "weights": "shared", "loading": 1.5, "call": 0.7, "mebibytes": 2030.4}]},
    "native": {"rows": [pair(0.0002, 0.02, what="median_3x3x3, 128 x 128")]},
    "first-frame": {"rows": [pair(2.0, 50.0, what="60 s, 8 steps", window_steps={"ours": 8, "theirs": 1497},
                                  processor={"ours": 4.0, "theirs": 100.0})]},
    "videos/2s": {"rows": [video("pocket", "2 s", 4.0, 8.0, length=2)]},
    "videos/10s": {"rows": [video("pocket", "10 s", 20.0, 40.0, length=10)]},
    "videos/half": {"rows": [{"test": "test_video_of_one_window", **video("half", "8 frames, 25 steps", 20.0, 34.0)},
                             {"test": "test_fast_video_of_one_window", **video("half", "`fast`", 5.0, 34.0)}]},
    "memory": {"rows": [{"minutes": 1, "frames": 300, "seconds": 9.0, "peak": 200 << 20},
                        {"minutes": 2, "frames": 600, "seconds": 18.0, "peak": 210 << 20}]},
    "quality": {"people": [1], "seconds_of_video": 1.5, "reference_steps": 200,
                "rows": [preset("DDIM, 200 steps", 0.12, "inf"), preset("exact", 1.0, 45.0), preset("fast", 4.2, 31)]},
    "live": {"sustained_fps": 21.5, "keeps_up": False, "clock": LIVE_CLOCK, "asked": {"minutes": 1}},
}  # fmt: skip


def data(**changes: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a run, with `changes` to parts by name."""
    parts = {name: {"status": OK, "figures": figures, "seconds": 1.0} for name, figures in FIGURES.items()}
    run = {"started": "2026-01-01", "cpu": "a processor", "commit": "abc", "parts": ["live"], "quick": False,
           "threads": 2, "seconds": 60}  # fmt: skip
    machine = {
        "cpu": "a processor", "cores": 2, "memory_bytes": 8 << 30, "system": "Linux", "commit": "abc",
        "versions": {"python": "3.11"},
    }  # fmt: skip
    return {"machine": machine, "runs": [run], "parts": parts | changes}


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Engines", "| denoiser | 10 ms | 18 ms | **1.80** |"),
        ("A window-step", "| half | 160, 320 | 128 x 128, 8 frames | 1 s | 2 s | **2.00** |"),
        ("CPU optimisations", "| GEGLU | two products | 600 ms | 500 ms | **1.20** |"),
        ("CPU optimisations", "time (model half): products 60.0%, attention 40.0%."),
        ("Weights in memory", "| denoiser | shared | 1.5 s | 700 ms | 2030 MiB |"),
        ("Native kernels", "| median_3x3x3, 128 x 128 | 200 µs | 20 ms | **100.00** |"),
        ("Time to first frame", "| 60 s, 8 steps | 2 s | 50 s | **25.00** | 8 | 1497 | 4 s | 100 s |"),
        ("Cost over length", "99.95% | 1 |"),
        ("Latency by stage", "| half | 8 frames, 25 steps | PyTorch | 27.2 s | 34 s |"),
        ("Memory over length", "| 2 | 600 | 210 MiB | 1.050 |"),
        ("Quality over speed", "| DDIM, 200 steps | ddim, 8 | 0 to 0.7, every 2 | 0.12 x | 0.12 x | equal |"),
        ("Live", "| sustained fps | 21.5 |"),
        ("Live", "| clock, latency s, p50 | 0.5 |"),
    ],
)
def test_each_section_has_its_figures(title: str, text: str) -> None:
    assert text in section(page(data()), title)


def test_what_failed_says_so_in_its_section_and_keeps_what_it_had() -> None:
    failed = {"status": FAILED, "reason": "killed by SIGKILL", "figures": FIGURES["memory"], "seconds": 2.0}
    text = section(page(data(memory=failed)), "Memory over length")
    assert "**memory: failed**: killed by SIGKILL" in text
    assert "210 MiB" in text
    assert "failed" not in section(page(data(memory=failed)), "Engines")


def test_a_part_without_figures_leaves_no_table() -> None:
    text = section(page(data(engines={"status": FAILED, "reason": "no time"})), "Engines")
    assert "| engine |" not in text
    assert "no time" in text


def test_targets_are_compared_with_what_was_measured() -> None:
    text = section(page(data()), "Targets")
    assert text.count("| reached |") == 4
    assert "| at least 1.75 | 1.70 | MISSED |" in text
    outcomes = {name: Outcome(OK, figures=figures) for name, figures in FIGURES.items()}
    found = goals(outcomes)["goals"]
    assert {name: goal["reached"] for name, goal in found.items()} == {
        "cpu_ratio": False, "first_frame": True, "fast": True, "memory": True, "live_memory": True, "live_sound": False,
    }  # fmt: skip
    assert goals({})["goals"]["fast"] == {"at_least": 4.0, "measured": None, "reached": False}


def test_the_page_names_its_plots_and_they_lie_beside_it(tmp_path: Path) -> None:
    write_page(data(), tmp_path)
    text = (tmp_path / PAGE).read_text()
    for name in ("length.png", "stages.png", "memory.png", "quality.png"):
        assert f"]({name})" in text
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_what_is_not_there_any_more_goes(tmp_path: Path) -> None:
    write_page(data(), tmp_path)
    write_page(data(memory={"status": FAILED, "reason": "no"}), tmp_path)
    assert not (tmp_path / "memory.png").exists()
    assert "memory.png" not in (tmp_path / PAGE).read_text()


@pytest.mark.parametrize(
    ("value", "text"), [(123.4, "123 s"), (2.0, "2 s"), (0.0123, "12.3 ms"), (2e-4, "200 µs"), (5e-6, "5 µs")]
)
def test_seconds_have_three_digits(value: float, text: str) -> None:
    assert seconds(value) == text


def test_a_table_without_rows_is_none() -> None:
    assert markdown(["a"], []) == []
    assert markdown(["a", "b"], [[1, 2]]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
