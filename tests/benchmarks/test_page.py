"""The page of the benchmarks, made from a JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cpu.pairs import sides_figures
from benchmarks.cpu.runtimes import AUTOCAST, CPU, FAST, OPENVINO, OPENVINO_BF16, PYTORCH
from benchmarks.gpu.measure import summary
from benchmarks.gpu.parts import FAILED, OK, Outcome
from benchmarks.page.index import JSON, MACHINES, README, index, read_machines, with_speed
from benchmarks.page.render import PAGE, page, write_page
from benchmarks.page.tables import live_settings, markdown, rows_of, seconds, why_kept
from benchmarks.page.targets import MISSED, NOT_MEASURED, REACHED, targets


def pair(ours: float, theirs: float, **facts: Any) -> dict[str, Any]:
    """Return a row of a suite."""
    return {"ours": summary([ours]), "theirs": summary([theirs]), "ratio": summary([theirs / ours]), **facts}


def sides(times: dict[str, float], **facts: Any) -> dict[str, Any]:
    """Return a row of all sides with one turn each."""
    missing = {} if OPENVINO_BF16 in times else {OPENVINO_BF16: "no bfloat16"}
    return {**sides_figures({name: [time] for name, time in times.items()}), "missing": missing, **facts}


def video(model: str, what: str, times: dict[str, float], **facts: Any) -> dict[str, Any]:
    row = sides(times, model=model, what=what, **facts)
    for name, side in row["sides"].items():
        steps = {"sampler": "unipc", "steps": 6} if name == FAST else {"sampler": "ddim", "steps": 25}
        side |= {**steps, "stages": {"denoise": times[name] * 0.8, "total": times[name]}}
        if name != PYTORCH:
            side |= {"agreement": {"equal": 0.9995, "largest": 1, "psnr": 42.0}, "precision": name}
    return row


def shipped(times: dict[str, float]) -> dict[str, Any]:
    row = sides(times, model="shipped", what="1.5 s")
    for name, side in row["sides"].items():
        psnr = "inf" if name == CPU else 53.0
        side |= {"psnr": psnr, "psnr_of_the_worst_frame": psnr, "lips": 0.9, "lips_change": 0.02, "nose": 0.01}
    return row


def preset(name: str, speedup: float, psnr: float | str) -> dict[str, Any]:
    return {
        "name": name, "sampler": "ddim", "steps": 8, "guidance_interval": [0, 0.7], "uncond_interval": 2,
        "speedup": summary([speedup]), "denoising_speedup": summary([speedup]), "psnr": psnr,
        "psnr_of_the_worst_frame": psnr, "lips": 0.91, "nose": 0.01, "nose_95": 0.02,
    }  # fmt: skip


LIVE_CLOCK = {
    "latency_s": {"p50": 0.5}, "memory_mib": {"after_a_fifth": 300.0, "in_the_end": 303.0},
    "frames": 200, "frames_with_wrong_sound_or_time": 1, "fps": 20.0,
}  # fmt: skip
FIGURES: dict[str, dict[str, Any]] = {
    "engines": {"rows": [pair(0.010, 0.018, what="denoiser", model="pocket")]},
    "window-step/half": {"rows": [sides({PYTORCH: 2.0, CPU: 1.0}, what="128 x 128, 8 frames", model="half",
                                        channels=[160, 320])]},
    "changes/speed": {"model": "half", "profile": {"products": 0.6, "attention": 0.4},
                      "rows": [pair(0.5, 0.6, what="GEGLU", words="two products", kept=True, error=0.0)]},
    "changes/memory": {"model": "half", "profile": {},
                       "rows": [pair(0.6, 0.6, what="one arena", words="all engines", kept=True, error=0.0,
                                     memory={"without": 30 << 20, "with": 20 << 20})]},
    "loading": {"rows": [{"what": "denoiser", "weights": "shared", "loading": 1.5, "call": 0.7, "mebibytes": 2030.4}]},
    "native": {"rows": [pair(0.0002, 0.02, what="median_3x3x3, 128 x 128")]},
    "first-frame": {"rows": [pair(2.0, 50.0, what="60 s, 8 steps", window_steps={"ours": 8, "theirs": 1497},
                                  processor={"ours": 4.0, "theirs": 100.0})]},
    "videos/2s": {"rows": [video("pocket", "2 s", {PYTORCH: 8.0, CPU: 4.0}, length=2)]},
    "videos/10s": {"rows": [video("pocket", "10 s", {PYTORCH: 40.0, CPU: 20.0}, length=10)]},
    "videos/half": {"rows": [video("half", "8 frames", {
        PYTORCH: 34.0, AUTOCAST: 25.0, CPU: 20.0, OPENVINO: 18.0, OPENVINO_BF16: 10.0, FAST: 5.0,
    })]},
    "precision": {"people": [1], "seconds_of_video": 1.5,
                  "rows": [shipped({CPU: 5.0, OPENVINO: 4.5, OPENVINO_BF16: 2.0})]},
    "memory": {"rows": [{"minutes": 1, "frames": 300, "seconds": 9.0, "peak": 200 << 20},
                        {"minutes": 2, "frames": 600, "seconds": 18.0, "peak": 210 << 20}]},
    "quality": {"people": [1], "seconds_of_video": 1.5, "reference_steps": 200,
                "rows": [preset("DDIM, 200 steps", 0.12, "inf"), preset("exact", 1.0, 45.0), preset("fast", 4.2, 31)]},
    "cold-start/half": {"rows": [
        {"way": "openvino-bf16", "process": process, "seconds": {"import": 0.5, "total": total}}
        for process, total in (("first", 8.0), ("second", 2.0))
    ]},
    "crowd": {"rows": [{"load": 2, "processes": 1, "streams": 1, "way": "no spinning", "words": "threads sleep",
                        "wall": summary([3.0]), "processor": summary([4.0]), "slowdown": summary([1.0])}]},
    "live": {"sustained_fps": 21.5, "keeps_up": False, "clock": LIVE_CLOCK, "asked": {"minutes": 1},
             "settings": {"steps": 4, "guidance_scale": 1.0, "overlap": 8}},
}  # fmt: skip


def data(**changes: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a run, with `changes` to parts by name."""
    parts = {name: {"status": OK, "figures": figures, "seconds": 1.0} for name, figures in FIGURES.items()}
    run = {"started": "2026-01-01", "cpu": "a processor", "commit": "abc", "parts": ["live"], "quick": False,
           "threads": 2, "seconds": 60}  # fmt: skip
    machine = {
        "cpu": "a processor", "slug": "a-processor", "instructions": ["amx_bf16"], "cores": 2, "memory_bytes": 8 << 30,
        "system": "Linux", "commit": "abc", "versions": {"python": "3.11"},
    }  # fmt: skip
    return {"machine": machine, "runs": [run], "parts": parts | changes}


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Engines", "| denoiser | 10 ms | 18 ms | **1.80** |"),
        ("A window-step", "| half | 160, 320 | 128 x 128, 8 frames | `cpu` | 1 s | **2.00** | 1 |"),
        ("A window-step", "* half, `openvino`, bf16: not measured, no bfloat16"),
        ("CPU optimisations", "| GEGLU | two products | 600 ms | 500 ms | **1.20** | one pair | 1 | faster |"),
        ("CPU optimisations", "| **1.00** | one pair | 1 | 30 MiB, 20 MiB | less memory |"),
        ("CPU optimisations", "time (model half): products 60.0%, attention 40.0%."),
        ("Weights in memory", "| denoiser | shared | 1.5 s | 700 ms | 2030 MiB |"),
        ("Native kernels", "| median_3x3x3, 128 x 128 | 200 µs | 20 ms | **100.00** |"),
        ("Time to first frame", "| 60 s, 8 steps | 2 s | 50 s | **25.00** | 8 | 1497 | 4 s | 100 s |"),
        (
            "Cost over length",
            "| half | 8 frames | `openvino`, bf16 | openvino bf16 | 10 s | **3.40** | **2.50** | **2.00** |",
        ),
        ("Cost over length", "| ddim, 25 | 42.0 dB | 99.95% | 1 |"),
        ("Cost over length", "| **6.80** | **5.00** | **4.00** | unipc, 6 |"),
        ("Latency by stage", "| half | 8 frames | PyTorch, fp32 | 27.2 s | 34 s |"),
        ("Precision", "| 1.5 s | `openvino`, bf16 | 2 s | **2.50** | 53.0 dB | 53.0 dB | 0.900 | 0.020 | 1.00% | 1 |"),
        ("Memory over length", "| 2 | 600 | 210 MiB | 1.050 |"),
        ("Quality over speed", "| DDIM, 200 steps | ddim, 8 | 0 to 0.7, every 2 | 0.12 x | 0.12 x | equal |"),
        ("Cold start", "| half | openvino-bf16 | second | 500 ms | 2 s | 0.25 |"),
        ("Crowded machine", "| 2 | 1 x 1 | 3.00 / 4.00 |"),
        ("Live", "| settings | 4 steps without guidance, overlap 8 |"),
        ("Live", "| sustained fps | 21.5 |"),
        ("Live", "| clock, latency s, p50 | 0.5 |"),
    ],
)
def test_each_section_has_its_figures(title: str, text: str) -> None:
    assert text in section(page(data()), title)


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        ({"settings": {"steps": 10, "guidance_scale": 2.5, "overlap": 4}}, "10 steps with guidance 2.5, overlap 4"),
        ({"asked": {"steps": 4, "guidance_scale": 1.0, "overlap": None}}, "4 steps without guidance"),
        ({"asked": {"steps": None, "guidance_scale": None, "overlap": None}}, "as the bundle recommends"),
    ],
)
def test_live_mode_is_labelled_by_its_settings_and_older_figures_by_the_options(
    figures: dict[str, Any], text: str
) -> None:
    assert live_settings({"asked": {}, **figures}) == text


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
    assert "| at least 1.75 | 1.7 | MISSED |" in text
    assert "| at least 41 dB with amx_bf16 | 42 dB | reached |" in text
    outcomes = {name: Outcome(OK, figures=figures) for name, figures in FIGURES.items()}
    found = targets(outcomes, {"instructions": ["amx_bf16"]})["targets"]
    assert {name for name, target in found.items() if target["verdict"] == MISSED} == {
        "cpu_ratio", "shipped_lips", "live_sound",
    }  # fmt: skip
    assert {name for name, target in found.items() if target["verdict"] == REACHED} == found.keys() - {
        "cpu_ratio", "shipped_lips", "live_sound",
    }  # fmt: skip
    assert found["shipped_lips"] == {"at_most": 0.01, "measured": 0.02, "verdict": MISSED}
    assert targets({}, {"instructions": []})["targets"]["fast"]["verdict"] == NOT_MEASURED


def test_a_target_of_another_chip_is_not_judged_and_its_figure_stays() -> None:
    found = data()
    found["machine"]["instructions"] = ["avx512_bf16"]
    text = section(page(found), "Targets")
    assert "| at least 2.7 with amx_bf16 | 3.4 | no target on this CPU |" in text


def row(ratio: list[float], **facts: Any) -> dict[str, Any]:
    return {"kept": True, "ratio": summary(ratio), **facts}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (row([1.02, 1.03, 1.04]), "faster"),
        (row([0.9, 1.03, 1.04]), "no gain in speed; memory not measured here"),
        (row([0.98], memory={"without": 2, "with": 1}), "less memory"),
        (row([1.1], memory={"without": 2, "with": 1}), "faster, less memory"),
        (row([0.98], memory={"without": 1, "with": 1}), "no gain"),
        (row([0.98], reason="faster on a crowded machine"), "faster on a crowded machine"),
        (row([1.5]) | {"kept": False}, "not kept"),
    ],
)
def test_an_optimisation_says_why_it_is_kept(found: dict[str, Any], why: str) -> None:
    assert why_kept(found) == why


def test_the_index_has_a_section_for_each_machine_the_newest_first(tmp_path: Path) -> None:
    old, new = data(), data()
    old["machine"] |= {"cpu": "an old chip", "note": "Its model is not known."}
    new["runs"][0]["started"] = "2026-02-01"
    for name, found in (("old", old), ("new", new)):
        (tmp_path / name).mkdir()
        (tmp_path / name / JSON).write_text(json.dumps(found))
    text = index(read_machines(tmp_path))
    assert text.index("## a processor") < text.index("## an old chip") < text.index("## Not in this report")
    assert "[All figures](new/README.md)" in text
    assert "Its model is not known." in section(text, "an old chip")
    live = "22 frames per second sustained; 0.50 s from sound to frame (median, at 20 per second) |"
    assert f"| live, 4 steps without guidance, overlap 8 | {live}" in section(text, "a processor")
    assert "| **3.40** | **2.50** | **2.00** |" in section(text, "a processor")
    assert "| [an old chip](old/README.md) | 2 | 2026-01-01 | **1.70** | **1.89** | **3.40** | **2.50** |" in text


@pytest.mark.parametrize("path", sorted(MACHINES.glob(f"*/{JSON}")), ids=lambda path: path.parent.name)
def test_the_page_of_each_machine_is_that_of_its_figures(path: Path) -> None:
    drawn = tuple(plot.name for plot in path.parent.glob("*.png"))
    written = (path.parent / PAGE).read_text()
    assert written == page(json.loads(path.read_text()), drawn), "run: python -m benchmarks.report --parts"


def test_the_index_and_the_table_of_the_readme_are_those_of_the_machines() -> None:
    machines = read_machines(MACHINES)
    assert (MACHINES / PAGE).read_text() == index(machines), "run: python -m benchmarks.report --parts"
    assert README.read_text() == with_speed(README.read_text(), machines), "run: python -m benchmarks.report --parts"


def test_the_table_of_speed_says_where_the_sides_take_different_steps() -> None:
    text = with_speed("before\n<!-- speed -->old<!-- speed -->\nafter", {"one": data()})
    assert text.startswith("before\n<!-- speed -->\n\n| CPU |")
    assert text.endswith("|\n\n<!-- speed -->\nafter")
    page = "[a processor](docs/benchmarks/one/README.md)"
    half = "half of the full width, 8 frames of 128 x 128"
    assert (
        f"| {page} | {half}, 25 steps of DDIM | `openvino`, bf16 | 10 s | 34 s, 3.4x | 25 s, 2.5x | 42.0 dB |" in text
    )
    assert f"| {half}, 6 steps of UniPC, PyTorch with 25 of DDIM | `cpu`, preset `fast` | 5 s |" in text
    assert "| 8 s, 2.0x | not measured |" in text
    with pytest.raises(ValueError, match=r"1 marks .* expected two"):
        with_speed("<!-- speed -->", {})


def test_every_kept_optimisation_gains_on_a_measured_machine() -> None:
    gains: dict[str, set[str]] = {}
    for path in MACHINES.glob(f"*/{JSON}"):
        for found in rows_of(json.loads(path.read_text())["parts"], "changes"):
            gains.setdefault(found["what"], set()).add(why_kept(found))
    assert gains
    kept = {name: reasons for name, reasons in gains.items() if "not kept" not in reasons}
    assert [name for name, reasons in kept.items() if all(reason.startswith("no gain") for reason in reasons)] == []


def test_the_page_names_its_plots_and_they_lie_beside_it(tmp_path: Path) -> None:
    write_page(data(), tmp_path)
    text = (tmp_path / PAGE).read_text()
    for name in ("length.png", "stages.png", "memory.png", "quality.png"):
        assert f"]({name})" in text
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_videos_of_one_length_have_no_plot(tmp_path: Path) -> None:
    write_page(data(**{"videos/10s": {"status": FAILED, "reason": "no"}}), tmp_path)
    assert not (tmp_path / "length.png").exists()


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
