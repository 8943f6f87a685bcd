"""`python -m benchmarks.report`: its plan, its suites, and the figures that it keeps."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import quality, report
from benchmarks.cpu.effort import QUICK, WHOLE
from benchmarks.cpu.pairs import pair_figures, sides_figures
from benchmarks.cpu.runtimes import AUTOCAST, CPU, OPENVINO, PYTORCH, RUNTIMES
from benchmarks.gpu.part_runner import run_parts
from benchmarks.gpu.parts import FAILED, NOT_AVAILABLE, OK, Outcome, Part
from benchmarks.page.plan import KINDS, plan
from benchmarks.page.tables import presets_table
from benchmarks.quality import Measured
from tests.support.paths import ROOT
from vexpress_rt.config import PRESETS
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.utils.cpu_model import cpu_model

# Pairs.


def test_a_ratio_is_that_of_the_two_in_each_turn() -> None:
    found = pair_figures([1.0, 2.0, 4.0], [2.0, 4.0, 16.0])
    assert found["ratio"]["median"] == 2.0
    assert found["ratio"]["most"] == 4.0
    assert (found["ours"]["median"], found["theirs"]["median"]) == (2.0, 4.0)


def test_a_machine_that_is_slow_for_a_while_does_not_change_the_ratio() -> None:
    slow = np.array([1.0, 5.0, 1.0, 9.0])
    found = pair_figures((0.1 * slow).tolist(), (0.3 * slow).tolist())
    assert found["ours"]["spread"] > 0.5
    assert found["ratio"]["median"] == pytest.approx(3)
    assert found["ratio"]["spread"] == pytest.approx(0)


def test_as_many_of_both_are_needed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        pair_figures([1.0], [])


def test_each_side_has_its_speed_up_over_those_before_it() -> None:
    found = sides_figures({"a": [4.0, 8.0], "b": [2.0, 4.0], "c": [1.0, 4.0]})
    assert found["speedups"]["a"] == {}
    assert found["speedups"]["b"]["a"]["median"] == 2.0
    assert (found["speedups"]["c"]["a"]["median"], found["speedups"]["c"]["b"]["median"]) == (3.0, 1.5)
    assert found["sides"]["c"]["seconds"]["median"] == 2.5


# The plan.


@pytest.mark.parametrize("effort", [WHOLE, QUICK])
def test_every_part_can_be_asked_for_and_leads_to_a_function_and_a_suite_that_exist(
    effort: Any, tmp_path: Path
) -> None:
    parts = plan(effort, threads=2, work=tmp_path, quick=effort is QUICK)
    names = {part.name for part in parts}
    assert {name.partition("/")[0] for name in names} == {*KINDS, "prepare"}
    for part in parts:
        module, _, function = part.function.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert part.alone
        assert set(part.needs) <= names
        if function == "suite":
            assert (ROOT / part.options["arguments"][0]).is_file()
    assert names >= {f"videos/{length:g}s" for length in effort.lengths}


TESTS = "128 or (window and pocket) or video or (engine and (denoiser-pocket or audio_encoder))"  # of all suites


@pytest.fixture(scope="module")
def outcomes(
    tmp_path_factory: pytest.TempPathFactory, micro_checkpoint: Path, micro_bundle: Path
) -> dict[str, Outcome]:
    """Outcomes of the suites on the micro model, and of a failing suite."""
    folder = tmp_path_factory.mktemp("suites")
    broken = folder / "test_broken.py"
    broken.write_text("def test_it():\n    assert 1 + 1 == 3, 'two and two'\n")
    small = ["benchmarks/suites", "--quick", "--lengths", "0.2", "--threads", "1", "--models", "pocket", "-k", TESTS]
    options = {"arguments": small, "weights": str(micro_checkpoint), "bundle": str(micro_bundle)}
    parts = [
        Part("small", "tests.support.suite_parts:micro_suites", options),
        Part("broken", "benchmarks.page.parts:suite", {"arguments": [str(broken)]}),
    ]
    found: dict[str, Outcome] = {}
    run_parts(parts, lambda part, out: found.update({part.name: out}), work=folder, budget=600, jobs=1)
    return found


def test_every_suite_measures_its_sides_by_turns(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["small"].status == OK, outcomes["small"]
    rows = {row["test"]: row for row in outcomes["small"].figures["rows"]}
    alone = {"test_median[128]", *(f"test_engine[{name}-pocket]" for name in ("denoiser", "audio_encoder"))}
    together = {"test_window_step[pocket]": QUICK.rounds, "test_video_of_the_small_model[0.2s-pocket]": 2}
    assert rows.keys() == alone | together.keys()
    for row in (rows[name] for name in alone):
        assert row["ours"]["count"] == row["theirs"]["count"] == row["ratio"]["count"] == QUICK.rounds
        assert min(row["ours"]["least"], row["theirs"]["least"]) > 0
    for name, rounds in together.items():
        sides = rows[name]["sides"]
        assert {PYTORCH, CPU, OPENVINO} <= sides.keys()
        assert sides.keys() | rows[name]["missing"].keys() == {PYTORCH, AUTOCAST, *RUNTIMES}
        assert all(side["seconds"]["count"] == rounds and side["seconds"]["least"] > 0 for side in sides.values())


def test_the_videos_of_all_sides_agree_and_tell_their_stages(outcomes: dict[str, Outcome]) -> None:
    (row,) = (row for row in outcomes["small"].figures["rows"] if "video" in row["test"])
    for name, side in row["sides"].items():
        assert side["stages"].keys() >= {"portrait", "denoise", "decode", "median"}
        if name in (CPU, OPENVINO):
            assert side["agreement"]["equal"] > 0.99
            assert side["precision"].startswith("fp32")


def test_a_suite_that_fails_says_which_test_and_why(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["broken"].status == FAILED
    assert "test_it" in outcomes["broken"].reason
    assert "two and two" in outcomes["broken"].reason


class CollectedNames:
    """A pytest plugin that keeps the names of the collected tests."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.names |= {item.name for item in session.items}


def test_all_suites_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    collected = CollectedNames()
    flags = ["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--lengths", "2,60"]
    assert pytest.main(["benchmarks/suites", *flags], plugins=[collected]) == pytest.ExitCode.OK
    assert collected.names >= {
        "test_engine[denoiser-pocket]", "test_window_step[full]", "test_median[512]", "test_first_frame",
        "test_video_of_the_small_model[60s-pocket]", "test_video_of_one_window[half]",
    }  # fmt: skip
    assert not any("10s" in name for name in collected.names)


# The report.


@pytest.fixture
def run_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that runs the command with parts of tests.support.gpu_parts; returns exit code and JSON."""

    def run(wanted: list[str], *functions: str, flags: tuple[str, ...] = ()) -> tuple[int, dict[str, Any]]:
        parts = [Part(name, f"tests.support.gpu_parts:{name}", {}, alone=True) for name in functions]
        monkeypatch.setattr(report, "plan", lambda *given, **more: parts)
        monkeypatch.setattr(report, "select", lambda parts, kinds: [part for part in parts if part.name in wanted])
        code = report.main(["--output", str(tmp_path / "page"), "--work", str(tmp_path), "--parts", "live", *flags])
        return code, json.loads((tmp_path / "page" / report.JSON).read_text())

    return run


def test_a_part_that_fails_is_in_the_json_and_the_others_are_measured(run_report: Any) -> None:
    code, found = run_report(["raising", "fine"], "raising", "fine")
    assert code == 1
    assert found["parts"]["raising"]["status"] == FAILED
    assert found["parts"]["raising"]["figures"] == {"so_far": 1}
    assert found["parts"]["fine"]["status"] == OK
    assert {"cpu", "versions", "commit"} <= found["machine"].keys()


def test_parts_that_are_not_asked_for_keep_what_was_measured_before(run_report: Any) -> None:
    run_report(["fine"], "fine", "lacking")
    code, found = run_report(["lacking"], "fine", "lacking", "later")
    assert code == 0
    assert found["parts"]["fine"]["status"] == OK
    assert found["parts"]["lacking"]["reason"] == "the moon is not out"
    assert found["parts"]["later"] == {"status": NOT_AVAILABLE, "reason": report.NOT_ASKED, "seconds": 0.0}
    assert len(found["runs"]) == 2


def test_a_quick_run_leaves_nothing_to_a_whole_one(run_report: Any) -> None:
    run_report(["fine"], "fine", "lacking", flags=("--quick",))
    _, found = run_report(["lacking"], "fine", "lacking")
    assert found["parts"]["fine"]["status"] == NOT_AVAILABLE
    assert [run["quick"] for run in found["runs"]] == [False]


def test_without_parts_the_page_is_made_from_the_json_alone(run_report: Any, tmp_path: Path) -> None:
    run_report(["fine"], "fine")
    page = tmp_path / "page" / report.PAGE
    page.unlink()
    assert report.main(["--output", str(tmp_path / "page"), "--parts"]) == 0
    assert page.read_text().startswith(f"# {cpu_model().describe()}")
    assert report.main(["--output", str(tmp_path), "--parts"]) == 2


@pytest.mark.parametrize("fact", [{"slug": "another-chip", "cpu": "another chip"}, {"cores": 1000}])
def test_figures_of_two_machines_are_not_mixed(
    fact: dict[str, Any], run_report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = run_report(["fine"], "fine")
    path = tmp_path / "page" / report.JSON
    path.write_text(json.dumps({**found, "machine": found["machine"] | fact}))
    before = path.read_bytes()
    assert run_report(["fine"], "fine")[0] == 2
    assert path.read_bytes() == before
    said = capsys.readouterr().err
    assert "figures of another machine" in said
    assert "--output" in said


def test_the_figures_go_to_the_folder_of_the_cpu_and_the_index_has_them(
    run_report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MACHINES", tmp_path / "machines")
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text("before <!-- speed --> <!-- speed --> after")
    run_report(["fine"], "fine")  # sets the plan
    assert report.main(["--work", str(tmp_path), "--parts", "live"]) == 0
    folder = tmp_path / "machines" / cpu_model().slug
    assert (folder / report.JSON).is_file()
    assert f"## {cpu_model().describe()}" in (tmp_path / "machines" / report.PAGE).read_text()


# Presets.


def measured(seconds: float, **changes: Any) -> Measured:
    values = {"denoising": seconds / 2, "psnr": 40.0, "worst": 35.0, "lips": 0.9, "noses": [0.01, 0.02]}
    return Measured(seconds=seconds, **(values | changes))


def test_a_preset_is_counted_against_exact_person_by_person(generator: Generator) -> None:
    videos = {
        "exact": [measured(10.0), measured(30.0)],
        "fast": [measured(2.0, psnr=30.0), measured(6.0, psnr=32.0)],
        quality.RECOMMENDED: [measured(5.0), measured(10.0)],
    }
    rows = {row["name"]: row for row in quality._rows(generator, {}, videos)}
    assert rows["fast"]["speedup"]["median"] == 5.0
    assert rows["fast"]["psnr"] == 31.0
    assert rows["fast"]["steps"] == PRESETS["fast"]["steps"]
    assert rows[quality.RECOMMENDED]["speedup"]["median"] == 2.5
    assert rows["exact"]["speedup"]["median"] == 1.0
    text = "\n".join(presets_table({"rows": list(rows.values())}))
    assert "5.00 x" in text
    assert "31.0 dB" in text


def test_every_preset_is_compared_and_exact_comes_first() -> None:
    names = list(quality.configurations())
    assert names[0] == quality.BASE
    assert {*PRESETS, quality.RECOMMENDED} < set(names)
    assert len(names) == len(PRESETS) + 3


def test_precisions_are_compared_with_the_provider_cpu() -> None:
    videos = {
        CPU: [measured(1.0, lips=0.9, psnr=np.inf)] * 2,
        OPENVINO: [measured(1.0, lips=lips) for lips in (0.9, 0.87)],
    }
    generators = dict.fromkeys(videos, SimpleNamespace(describe=lambda: "bundle: x\nprecision: fp32 (why)"))
    samples = {CPU: [2.0, 4.0], OPENVINO: [1.0, 2.0]}
    found = quality._precision_figures(generators, samples, videos)  # type: ignore[arg-type]
    side = found["sides"][OPENVINO]
    assert side["lips_change"] == pytest.approx(0.03)
    assert (side["psnr"], side["precision"]) == (40.0, "fp32 (why)")
    assert found["speedups"][OPENVINO][CPU]["median"] == 2.0
