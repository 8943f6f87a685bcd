"""Runs with and without dropout of single conditions: only fair comparisons are made, and every outcome is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.build.options import BuildOptions
from export.errors import CheckpointError, ExportError
from export.pocket import ablation
from export.pocket.ablation import LAST, SCENES, STAGES, Lips, TrainedRun, check_fair, markdown, measure_lips, read_run
from export.pocket.architecture import SIZE
from export.pocket.evaluate import cases as cases_module
from export.pocket.evaluate.cases import Case, cases_of
from export.pocket.evaluate.subjects import FIRST, make_subject
from export.pocket.evaluate.video_sources import draw_case
from export.pocket.lips import RATE
from export.pocket.stage_records import StageRecord, record_stage
from vexpress_rt import GenerationConfig

STEPS = 3


def make_clip(seed: int, seconds: float, silent: float = 0.0) -> NDArray[np.float32]:
    """In place of espeak-ng's: a vowel that comes and goes."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 130 * k * time) / (1 + ((130 * k - 700) / 200) ** 2) for k in range(1, 30))
    return (0.2 * tone * np.clip(np.sin(2 * np.pi * 2.2 * time + seed), 0, 1)).astype(np.float32)


def save_run(folder: Path, *, seed: int = 0, keep_strong: bool = False, **done: int | None) -> Path:
    """A run with records and states of its stages, whose steps are those of `done` or STEPS; one tensor is in each."""
    folder.mkdir()
    for name in STAGES:
        record_stage(folder, name, StageRecord(seed, STEPS, keep_strong))
        weights = {"module.denoising_unet.conv_in.weight": torch.zeros(1)}
        torch.save({"step": done.get(name, STEPS), "module": {}, "mean": weights}, folder / f"{name}.pt")
    return folder


def four_runs() -> list[TrainedRun]:
    return [
        TrainedRun(Path(f"{dropout}-{seed}"), dropout, seed, dict.fromkeys(STAGES, STEPS))
        for dropout in (True, False)
        for seed in (0, 1)
    ]


def lips_of(value: Callable[[TrainedRun], float]) -> list[Lips]:
    return [Lips(run, 1.0, {scene: [value(run), 0.0, 1.0] for scene in SCENES}) for run in four_runs()]


def test_a_finished_run_has_a_kind_a_seed_and_steps(tmp_path: Path) -> None:
    run = read_run(save_run(tmp_path / "run", seed=2, keep_strong=True))
    assert run == TrainedRun(tmp_path / "run", False, 2, dict.fromkeys(STAGES, STEPS))


def test_runs_that_are_not_finished_or_not_recorded_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"all\.pt has 1 steps of 3: repeat the training"):
        read_run(save_run(tmp_path / "short", all=1))
    with pytest.raises(
        CheckpointError, match=r"voice\.pt was recovered from a bundle; expected a training from nothing"
    ):
        read_run(save_run(tmp_path / "recovered", voice=None))
    with pytest.raises(CheckpointError, match="has no record of the stages single, voice, all"):
        read_run(tmp_path)
    mixed = save_run(tmp_path / "mixed")
    (mixed / "voice.pt").unlink()
    record_stage(mixed, "voice", StageRecord(0, STEPS, True))
    with pytest.raises(CheckpointError, match="mixed has stages of several seeds, or with and without --keep-strong"):
        read_run(mixed)
    lost = save_run(tmp_path / "lost")
    (lost / "all.pt").unlink()
    with pytest.raises(CheckpointError, match=r"all\.pt has 0 steps of 3"):
        read_run(lost)


def test_unequal_runs_are_refused() -> None:
    runs = four_runs()
    check_fair(runs)
    with pytest.raises(ExportError, match=r"runs with dropout have the seeds \[0\]; expected at least 2 runs"):
        check_fair(runs[:1] + runs[2:])
    with pytest.raises(ExportError, match=r"runs without dropout have the seeds \[0, 0\].* and --keep-strong"):
        check_fair([*runs[:3], replace(runs[3], seed=0)])
    with pytest.raises(ExportError, match=r"with dropout have the seeds \[0, 1\], those without \[0, 5\]"):
        check_fair([*runs[:3], replace(runs[3], seed=5)])
    with pytest.raises(ExportError, match=r"False-1 took the steps .* expected equal steps"):
        check_fair([*runs[:3], replace(runs[3], steps=dict.fromkeys(STAGES, 9))])


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (
            lambda run: 0.8 if run.dropout else 0.7,
            "dropout raises the correlation by 0.100 in the median; +0.100 (seed 0)",
        ),
        (
            lambda run: 0.7 if run.dropout else 0.8,
            "dropout lowers the correlation by 0.100 in the median; -0.100 (seed 0)",
        ),
        (lambda run: 0.7 if run.dropout == run.seed else 0.8, "the pairs of runs do not agree on a difference; +0.100"),
        (lambda run: 0.8, "the pairs of runs do not agree on a difference; +0.000 (seed 0), +0.000 (seed 1)"),
    ],
    ids=["raises", "lowers", "disagrees", "equal"],
)
def test_every_outcome_is_reported(value: Callable[[TrainedRun], float], outcome: str) -> None:
    text = markdown(lips_of(value), ["a fact"])
    assert f"* Guidance 1, head held: {outcome}" in text
    assert "* a fact" in text


def test_the_table_has_the_median_and_every_run() -> None:
    text = markdown(lips_of(lambda run: 0.5 + 0.1 * run.seed + 0.2 * run.dropout), [])
    assert "| with dropout | 1 | 0.750 (0.700, 0.800) | 0.750 (0.700, 0.800) |" in text
    assert "| without dropout | 1 | 0.550 (0.500, 0.600) | 0.550 (0.500, 0.600) |" in text


def test_lips_of_drawings_follow_the_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases_module, "clip", make_clip)
    cases = [case for case in cases_of(make_subject(FIRST), 1.0) if case.scene in SCENES]
    found = measure_lips(draw_case, cases)
    assert list(found) == list(SCENES)
    assert min(found["voice"] + found["photo"]) > 0.9


class FakeGenerator:
    """In place of a generator of a bundle that recommends a guidance of 2.5."""

    def __init__(self, bundle: Path, **options: Any) -> None:
        manifest = SimpleNamespace(settings=lambda config: config.resolve({"guidance_scale": 2.5, "steps": 7}, 12))
        self.bundle = SimpleNamespace(manifest=manifest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...


def test_the_command_builds_and_measures_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[Path, BuildOptions]] = []
    scales: list[float | None] = []

    def blank(portraits: object, config: GenerationConfig) -> Callable[[Case], NDArray[np.uint8]]:
        scales.append(config.guidance_scale)
        return lambda case: np.zeros((len(case.poses), SIZE, SIZE, 3), np.uint8)

    monkeypatch.setattr(cases_module, "clip", make_clip)
    monkeypatch.setattr(ablation, "build", lambda weights, output, options, report: built.append((output, options)))
    monkeypatch.setattr(ablation, "Generator", FakeGenerator)
    monkeypatch.setattr(ablation, "GeneratedVideos", blank)
    runs = [
        save_run(tmp_path / f"run-{seed}-{keep}", seed=seed, keep_strong=keep)
        for keep in (False, True)
        for seed in (0, 1)
    ]
    files = {"report": tmp_path / "ablation.md", "json": tmp_path / "ablation.json"}
    arguments = ["--weights", "checkpoint", "--work", str(tmp_path / "work"), "--people", "1", "--seconds", "1"]
    arguments += [text for name, path in files.items() for text in (f"--{name}", str(path))]
    assert ablation.main([*arguments, "--runs", *map(str, runs)]) == 0
    assert [output.name for output, _ in built] == ["with-0", "with-1", "without-0", "without-1"]
    assert [(options.training.run, options.training.stage) for _, options in built] == [(run, LAST) for run in runs]
    assert scales == [1.0, 2.5] * 4
    text = files["report"].read_text()
    assert "| without dropout | 2.5 | 0.000 (0.000, 0.000) |" in text
    assert "unipc" not in text
    assert "7 steps" in text
    assert {row["dropout"] for row in json.loads(files["json"].read_text())} == {True, False}


def test_wrong_options_are_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--weights", "x", "--runs", str(tmp_path)]
    assert ablation.main([*asked, "--report", str(tmp_path / "a.md"), "--people", "0"]) == 1
    assert "--people is 0" in capsys.readouterr().err
    assert ablation.main([*asked, "--report", "/nowhere/a.md"]) == 1
    assert "/nowhere is not a folder; make it" in capsys.readouterr().err
