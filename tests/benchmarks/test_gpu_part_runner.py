"""Parts of the GPU check: their order, parallelism, outcomes and result file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu.part_runner import run_parts
from benchmarks.gpu.parts import FAILED, NOT_AVAILABLE, OK, Outcome, Part, plain, write_json
from benchmarks.gpu.plan import KINDS, SIZES, TINY, plan, runtimes, select
from benchmarks.gpu.report import Report, comparison, counts, line, table


def part(name: str, function: str = "fine", **fields: Any) -> Part:
    return Part(name, f"tests.support.gpu_parts:{function}", **fields)


def run(tmp_path: Path, *parts: Part, budget: float = 60, jobs: int = 1) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    run_parts(
        list(parts), lambda part, came: outcomes.update({part.name: came}), work=tmp_path, budget=budget, jobs=jobs
    )
    return outcomes


# Running parts.


def test_a_part_gets_its_options_and_gives_its_figures(tmp_path: Path) -> None:
    outcome = run(tmp_path, part("a", options={"size": 3}))["a"]
    assert (outcome.status, outcome.figures) == (OK, {"given": {"size": 3}})
    assert outcome.seconds > 0


def test_packages_in_a_parts_folder_come_first(tmp_path: Path) -> None:
    (tmp_path / "rtx").mkdir()
    (tmp_path / "rtx" / "wave.py").write_text("def part(options, report):\n    return {'file': __file__}\n")
    outcome = run(tmp_path, Part("a", "wave:part", folder=str(tmp_path / "rtx")))["a"]
    assert outcome.figures == {"file": str(tmp_path / "rtx" / "wave.py")}


def test_what_needs_a_part_that_did_not_succeed_is_not_available_for_that_reason(tmp_path: Path) -> None:
    outcomes = run(
        tmp_path,
        part("broken", "raising"),
        part("missing", "lacking"),
        part("after_broken", needs=("broken",)),
        part("after_missing", needs=("missing",)),
        part("later_still", needs=("after_missing",)),
    )
    assert outcomes["after_broken"].reason == "broken failed: ValueError: seven is not even"
    assert outcomes["later_still"].reason == outcomes["after_missing"].reason == "the moon is not out"
    assert {outcomes[name].status for name in ("after_broken", "after_missing", "later_still")} == {NOT_AVAILABLE}


def test_what_is_for_want_of_another_is_run_only_where_that_is_not_ok(tmp_path: Path) -> None:
    outcomes = run(
        tmp_path,
        part("new", "lacking"),
        part("old", unless=("new",)),
        part("oldest", unless=("new", "old")),
    )
    assert [outcomes[name].status for name in ("new", "old", "oldest")] == [NOT_AVAILABLE, OK, NOT_AVAILABLE]
    assert "not needed: this part replaces old, which is ok" in outcomes["oldest"].reason


def overlap(one: Outcome, other: Outcome) -> bool:
    return one.figures["began"] < other.figures["ended"] and other.figures["began"] < one.figures["ended"]


def test_what_takes_times_runs_alone_and_what_uses_the_gpu_one_at_a_time(tmp_path: Path) -> None:
    building, checking = str(tmp_path / "building"), str(tmp_path / "checking")
    options = {"seconds": 0.2}
    outcomes = run(
        tmp_path,
        part("timing", "waiting", options=options, alone=True),
        part("build", "waiting", options={**options, "arrive": building, "meet": [checking]}),
        part("check", "waiting", options={**options, "arrive": checking, "meet": [building]}, gpu=True),
        part("another_check", "waiting", options=options, gpu=True),
        jobs=3,
        budget=600,
    )
    assert overlap(outcomes["build"], outcomes["check"])
    assert not overlap(outcomes["check"], outcomes["another_check"])
    assert not any(overlap(outcomes["timing"], outcomes[name]) for name in outcomes if name != "timing")


def test_no_more_run_at_once_than_asked_for(tmp_path: Path) -> None:
    options = {"seconds": 0.3}
    outcomes = run(tmp_path, *(part(name, "waiting", options=options) for name in "ab"), jobs=1)
    assert not overlap(outcomes["a"], outcomes["b"])


def test_without_time_a_part_is_not_available(tmp_path: Path) -> None:
    outcome = run(tmp_path, part("late"), budget=0.5)["late"]
    assert outcome.status == NOT_AVAILABLE
    assert "is used up" in outcome.reason


# The plan.


def test_every_part_waits_for_earlier_ones_alone(tmp_path: Path) -> None:
    for size in SIZES.values():
        known: set[str] = set()
        for each in plan(size, runtimes([tmp_path / "rtx16", tmp_path / "rtx15"]), tmp_path):
            assert set(each.dependencies) <= known
            assert each.name not in known
            known.add(each.name)


def test_results_are_compared_at_the_tiny_size_and_times_taken_at_the_one_asked_for(tmp_path: Path) -> None:
    parts = {each.name: each for each in plan(SIZES["full"], runtimes([]), tmp_path)}
    assert parts["engines/tensorrt-rtx"].needs == ("build/tensorrt-rtx/tiny", "build/cpu")
    assert parts["timings/tensorrt-rtx"].needs == ("build/tensorrt-rtx/full",)
    options = parts["build/tensorrt-rtx/full"].options
    assert (options["height"], options["width"], options["frames"]) == (512, 512, 24)
    assert [name for name, each in parts.items() if each.alone] == [
        "kernels", "torch/eager", "timings/onnxruntime-cuda", "timings/tensorrt", "timings/tensorrt-rtx",
        "torch/compiled",
    ]  # fmt: skip


def test_an_older_tensorrt_is_tried_in_its_own_folder_and_only_where_the_newer_refuses(tmp_path: Path) -> None:
    parts = {each.name: each for each in plan(TINY, runtimes([tmp_path / "rtx16", tmp_path / "rtx15"]), tmp_path)}
    older = parts["accepts/tensorrt-rtx-rtx15"]
    assert older.unless == ("accepts/tensorrt-rtx", "accepts/tensorrt-rtx-rtx16")
    mine = [each for name, each in parts.items() if name.split("/")[1:2] == ["tensorrt-rtx-rtx15"]]
    assert len(mine) == 5
    assert {each.folder for each in mine} == {str(tmp_path / "rtx15")}
    assert "accepts/tensorrt-rtx-rtx15" in parts["build/tensorrt-rtx-rtx15/tiny"].needs


@pytest.mark.parametrize("kind", KINDS)
def test_some_parts_alone_come_with_all_that_they_need(kind: str, tmp_path: Path) -> None:
    everything = plan(SIZES["full"], runtimes([]), tmp_path)
    chosen = select(everything, [kind])
    names = [each.name for each in chosen]
    assert {each.name for each in everything if each.name.partition("/")[0] == kind} <= set(names)
    assert all(name in names for each in chosen for name in each.dependencies)
    assert not {name.partition("/")[0] for name in names} & (set(KINDS) - {kind})
    assert names == [each.name for each in everything if each.name in names]


# The result file.


def test_numbers_of_numpy_and_those_that_json_lacks_are_written(tmp_path: Path) -> None:
    write_json(
        tmp_path / "a.json", {"a": np.float32(0.1), "b": np.int64(3), "c": [math.inf, np.nan], "d": (None, True)}
    )
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 0.1, "b": 3, "c": ["inf", "nan"], "d": [None, True]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_times_keep_six_digits() -> None:
    assert plain({"seconds": 0.123456789}) == {"seconds": 0.123457}


VIDEO = {"seconds": {"median": 9}, "stages": {"denoise": 8}}
TIMES = {"engines": {"denoiser": {"median": 0.5}}, "window_step": {"median": 0.6}, "video": VIDEO}
EAGER = {"engines": {"denoiser": {"median": 1.0}, "vae_decoder": {"median": 0.1}}}


def test_a_result_compares_what_was_timed_alike_and_so_no_stages() -> None:
    outcomes = {
        "kernels": Outcome(OK, figures={"engines": {"no": {"median": 1}}}),
        "torch/eager": Outcome(FAILED, figures=EAGER),
        "timings/tensorrt": Outcome(OK, figures=TIMES),
    }
    rows = comparison(outcomes)
    assert rows == {
        "denoiser": {"torch/eager": 1.0, "tensorrt": 0.5},
        "vae_decoder": {"torch/eager": 0.1},
        "window_step": {"tensorrt": 0.6},
        "video": {"tensorrt": 9},
    }
    heading, denoiser, decoder, *_ = table(rows).splitlines()
    assert heading.split() == ["milliseconds", "torch/eager", "tensorrt"]
    assert denoiser.split() == ["denoiser", "1000.00", "500.00", "(2.00x)"]
    assert decoder.split() == ["vae_decoder", "100.00"]


def test_a_report_knows_what_failed_and_what_was_not_reached(tmp_path: Path) -> None:
    report = Report(tmp_path / "a.json", {"machine": {"cpu": "x"}}, [part("a"), part("b"), part("c")])
    report.add(part("a"), Outcome(FAILED, "broken", seconds=1.5))
    report.add(part("b"), Outcome(OK, figures={"x": 1}))
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["machine"] == {"cpu": "x"}
    assert written["parts"]["a"] == {"status": FAILED, "reason": "broken", "seconds": 1.5}
    assert written["parts"]["c"]["reason"] == "the run ended before this part"
    assert report.failed == ["a"]
    assert counts(report.outcomes.values()) == "1 ok, 1 failed, 1 not available"
    assert line(part("a"), report.outcomes["a"]).split() == ["a", "failed", "in", "1.5", "s:", "broken"]
